//! The bus in tasks of tokio: a subscription as a stream, a publisher as a sink. Nothing runs while nothing comes.

use bus_shm::{AsyncPublisher, Bus, Bytes};
use std::future::poll_fn;
use std::pin::Pin;

use futures_core::Stream;
use futures_sink::Sink;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(talk())
}

async fn talk() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::builder("example-tokio").temporary(true).open()?;
    let topic = bus.topic::<Bytes>("observation.email")?;
    let mut messages = bus.subscribe_pattern::<Bytes>("observation.*").join_async()?.into_stream();
    let mut sink: AsyncPublisher<Bytes, Vec<u8>> = topic.publisher()?.into_async();

    // With the crate `futures` these are `sink.send(..)` and `messages.next()`.
    for number in 0..3 {
        poll_fn(|context| Pin::new(&mut sink).poll_ready(context)).await?;
        Pin::new(&mut sink).start_send(format!("message {number}").into_bytes())?;
        poll_fn(|context| Pin::new(&mut sink).poll_flush(context)).await?;
    }
    for _ in 0..3 {
        let next = poll_fn(|context| Pin::new(&mut messages).poll_next(context)).await;
        let message = next.ok_or("the stream has no end")??;
        println!("{}: {}", message.topic(), String::from_utf8_lossy(message.payload()));
    }
    // Each was acknowledged when the next was asked for, and this is for the last.
    messages.ack()?;
    println!("all read");
    Ok(())
}
