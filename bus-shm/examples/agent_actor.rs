//! Actor, one of five agents: carries out what was approved. See `pipeline/mod.rs`; start all five, in any order.

mod pipeline;

fn main() -> std::process::ExitCode {
    pipeline::main("actor", pipeline::actor::start, std::env::args().skip(1))
}
