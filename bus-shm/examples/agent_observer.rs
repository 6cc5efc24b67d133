//! Observer, one of five agents: sends requests, so many at a time, until all are through. See `pipeline/mod.rs`; start all five, in any order.

#[allow(dead_code, reason = "this program is one of the five agents")]
mod pipeline;

fn main() -> std::process::ExitCode {
    pipeline::main("observer", pipeline::observer::start, std::env::args().skip(1))
}
