//! Guardian, one of five agents: lets plans pass or vetoes them. See `pipeline/mod.rs`; start all five, in any order.

#[allow(dead_code, reason = "this program is one of the five agents")]
mod pipeline;

fn main() -> std::process::ExitCode {
    pipeline::main("guardian", pipeline::guardian::start, std::env::args().skip(1))
}
