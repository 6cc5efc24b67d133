//! Reasoner, one of five agents: turns requests into plans. See `pipeline/mod.rs`; start all five, in any order.

#[allow(dead_code, reason = "this program is one of the five agents")]
mod pipeline;

fn main() -> std::process::ExitCode {
    pipeline::main("reasoner", pipeline::reasoner::start, std::env::args().skip(1))
}
