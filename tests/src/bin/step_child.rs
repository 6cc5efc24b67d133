//! The process that `tests/tests/instructions.rs` steps: plays one operation, or the process that dies before one.
//!
//! Arguments: the operation's name, `child` or `dead`, the directory of its bus, the page in which it tells what it does.

use std::path::Path;
use stepped::child::Child;
use stepped::operations::OPERATIONS;
use stepped::told::Told;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, role, dir, page] = &arguments[..] else {
        panic!("an operation, a role, a directory, and a page")
    };
    let operation = OPERATIONS.iter().find(|operation| operation.name == name).expect("an operation");
    let told = Told::open(Path::new(page));
    // Whoever steps this process says why it has ended.
    std::panic::set_hook(Box::new(move |panic| told.failed(&panic.to_string().replace('\n', " "))));
    let child = Child::new(dir.into(), operation.scene, told);
    match (role.as_str(), operation.dead) {
        ("dead", Some(dead)) => dead(&child),
        _ => (operation.run)(child),
    }
    println!("done");
}
