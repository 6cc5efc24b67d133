//! Priority lanes: a topic has three by default, critical, high and normal. A more urgent lane is looked at before every
//! message that is handed out, so a stop does not wait behind a queue of ordinary work.

use bus_shm::{Bus, Lane};

#[derive(rkyv::Archive, rkyv::Serialize)]
struct Command {
    text: String,
}
bus_shm::message!(Command, version 1, { text });

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-priority-lanes").temporary(true).open()?;
    let topic = bus.topic::<Command>("robot.command")?;
    let mut robot = topic.group("robot").join()?;
    let mut publisher = topic.publisher()?;

    // `publish` uses the normal lane.
    for step in 1..=3 {
        publisher.publish(&Command { text: format!("step {step}") })?;
    }
    publisher.publish_to(Lane::HIGH, &Command { text: "look around".into() })?;

    let mut order = Vec::new();
    while let Some(command) = robot.try_receive()? {
        let text = command.value()?.text.to_string();
        println!("{:<8} {text}", command.lane().name(topic.lanes()));
        command.ack()?;
        // Somebody presses the button while the robot is at its first step.
        if text == "step 1" {
            publisher.publish_to(Lane::CRITICAL, &Command { text: "stop".into() })?;
        }
        order.push(text);
    }
    assert_eq!(order, ["look around", "step 1", "stop", "step 2", "step 3"]);

    // Lanes keep their order inside, and each counts its own messages: there is no order between lanes.
    // A lane that waits is not forgotten either: by default it gets one message after 256 from above. A subscriber that
    // never wants that says `starvation_guard(0)`.
    Ok(())
}
