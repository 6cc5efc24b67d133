//! shmbus
#![forbid(unsafe_code)]
fn main(){}
