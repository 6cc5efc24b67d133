//! Actor, one of five agents: carries out what was approved. See `pipeline/mod.rs`; start all five, in any order.

#[allow(dead_code, reason = "this program is one of the five agents")]
mod pipeline;

fn main() -> std::process::ExitCode {
    pipeline::main("actor", pipeline::actor::start, std::env::args().skip(1))
}
