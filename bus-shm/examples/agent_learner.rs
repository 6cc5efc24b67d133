//! Learner, one of five agents: measures how long each request took, end to end. See `pipeline/mod.rs`; start all five, in any order.

#[allow(dead_code, reason = "this program is one of the five agents")]
mod pipeline;

fn main() -> std::process::ExitCode {
    pipeline::main("learner", pipeline::learner::start, std::env::args().skip(1))
}
