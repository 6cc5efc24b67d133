//! `shmbus pub`: a message, a file, or each line of standard input.

use super::receipt::Follow;
use crate::exit::{Code, Failure, Outcome};
use crate::place::Place;
use crate::signals::Signals;
use crate::units;
use crate::watch;
use bus_shm::{Bytes, Lane, Meta, Overflow, PublishError, Publisher, Topic, mailbox};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a publication waits for room unless said.
const ROOM_DEFAULT: Duration = Duration::from_secs(1);
/// How long groups are waited for unless said.
const OUTCOME_DEFAULT: Duration = Duration::from_secs(5);
/// A signal is noticed after at most this long while there is no room.
const SLICE: Duration = Duration::from_secs(1);

/// Flags of `pub`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Topic, or a mailbox: @NAME; created for plain bytes if there is none
    topic: String,
    /// The message; left out, each line of standard input is one
    #[arg(allow_negative_numbers = true)]
    message: Option<String>,
    /// Publish this file as one message; `-` is standard input
    #[arg(long, short, value_name = "FILE", conflicts_with = "message")]
    file: Option<PathBuf>,
    /// Lane, by name or number [default: normal]
    #[arg(long, short)]
    lane: Option<String>,
    /// Messages per second at most, such as 10 or 50k
    #[arg(long, short, value_parser = units::parse_rate)]
    rate: Option<f64>,
    /// Publish the message this often; of standard input, this many lines
    #[arg(long, short = 'n', value_parser = units::parse_count)]
    count: Option<u64>,
    /// What the message is about; subscribers can ask for one key
    #[arg(long)]
    key: Option<String>,
    /// After this long nobody wants it any more
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    ttl: Option<Duration>,
    /// What all messages of one task carry: 1 to 32 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = parse_correlation)]
    correlation: Option<u128>,
    /// Return when this group has handled the message; may be given several times. The exit code tells what became of it
    #[arg(long, value_name = "GROUP")]
    wait_for: Vec<String>,
    /// Say as JSON what became of each message, a line each
    #[arg(long, requires = "wait_for")]
    json: bool,
    /// How long to wait for room if the topic is full of unread messages, and for the groups of --wait-for [default: 1s, and 5s for
    /// groups]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    timeout: Option<Duration>,
    /// Name of this process in listings
    #[arg(long, default_value = "shmbus-pub", value_name = "NAME")]
    service: String,
}

fn parse_correlation(text: &str) -> Result<u128, String> {
    match u128::from_str_radix(text, 16) {
        Ok(0) | Err(_) => Err("1 to 32 hexadecimal digits, and not zero".into()),
        Ok(correlation) => Ok(correlation),
    }
}

/// What is said of each message besides its payload.
fn meta(args: &Args) -> Meta {
    let mut meta = Meta::new();
    if let Some(key) = &args.key {
        meta = meta.key(key);
    }
    if let Some(ttl) = args.ttl {
        meta = meta.ttl(ttl);
    }
    if let Some(correlation) = args.correlation {
        meta = meta.correlation(correlation);
    }
    meta
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let name = Place::resolve_checked(&args.topic)?;
    let signals = Signals::catch()?;
    // Read before anything is created: a file that is not there leaves nothing behind.
    let file = args.file.as_deref().map(|path| read_file(path, &signals)).transpose()?;
    let bus = place.join(&args.service, true)?;
    let existed = place.view()?.topic_names().contains(&name);
    let topic = match mailbox::mailbox_of(&name) {
        Some(mailbox) => bus.mailbox::<Bytes>(mailbox)?.topic().clone(),
        None => bus.topic::<Bytes>(&name)?,
    };
    if !existed && args.topic.starts_with('@') {
        place.note(format_args!("created mailbox {}", args.topic));
    } else if !existed {
        place.note(format_args!("created topic {name:?} for plain bytes"));
    }
    check_bytes(place, &name)?;
    let lane = lane(&topic, args.lane.as_deref())?;
    // Before anything is published: a group that is not there is no group that handles it.
    let wanted: Vec<&str> = args.wait_for.iter().map(String::as_str).collect();
    let follow = (!wanted.is_empty()).then(|| topic.receipts_of(&wanted)).transpose()?;
    let timeout = args.timeout.unwrap_or(ROOM_DEFAULT);
    let mut publisher = topic.publisher()?;
    publisher.set_deadline(timeout.min(SLICE));
    // A slice that is over is no deadline that has passed.
    publisher.set_breaker(false);
    let mut sender = Sender {
        lane: lane.unwrap_or_else(|| publisher.default_lane()),
        publisher,
        meta: meta(args),
        pace: args.rate.map(Pace::new),
        timeout,
        follow: follow.map(|receipts| Follow {
            receipts,
            lanes: topic.lanes(),
            timeout: args.timeout.unwrap_or(OUTCOME_DEFAULT),
            json: args.json,
            quiet: place.quiet,
        }),
        fails_at_once: topic.overflow() == Overflow::Fail,
        signals: &signals,
        sent: 0,
        sent_bytes: 0,
    };
    let begun = Instant::now();
    let payload = file.as_deref().or(args.message.as_deref().map(str::as_bytes));
    let (outcome, many) = match payload {
        Some(payload) => {
            let count = args.count.unwrap_or(1);
            (repeat(place, &mut sender, payload, count), count > 1)
        }
        None => (lines(place, &mut sender, args.count), true),
    };
    if many {
        place.note(summary(&sender, begun.elapsed()));
    }
    outcome
}

pub(super) fn read_file(path: &Path, signals: &Signals) -> Result<Vec<u8>, Failure> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        let mut input = Interruptible { signals, stdin: std::io::stdin().lock() };
        input.read_to_end(&mut bytes).map_err(|error| Failure::input("standard input", &error))?;
        return if signals.raised() { Err(signals.interrupted()) } else { Ok(bytes) };
    }
    std::fs::read(path).map_err(|error| Failure::input(path.display(), &error))
}

/// Text on a topic of archives would be read as a broken archive.
pub(super) fn check_bytes(place: &Place, topic: &str) -> Outcome {
    let settings = place.view()?.topic(topic)?.settings()?;
    if settings.types.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Code::Refused,
        format_args!(
            "topic {topic:?} carries {}, and text is no archive of that; publish with a program that has the type",
            watch::types_text(&settings)
        ),
    ))
}

/// The lane that was asked for, if one was.
pub(crate) fn lane(topic: &Topic<Bytes>, text: Option<&str>) -> Result<Option<Lane>, Failure> {
    text.map(|text| lane_named(topic, text)).transpose()
}

/// The lane of that name or number.
pub(crate) fn lane_named(topic: &Topic<Bytes>, text: &str) -> Result<Lane, Failure> {
    Lane::parse(text, topic.lanes()).ok_or_else(|| {
        let names: Vec<_> = (0..topic.lanes()).map(|lane| Lane(lane as u8).name(topic.lanes())).collect();
        let message = format!(
            "topic {:?} has no lane {text:?}; it has {} (0 to {})",
            topic.name(),
            names.join(", "),
            names.len() - 1
        );
        Failure::new(Code::Usage, message)
    })
}

/// A rate, kept against a schedule so that one late message does not delay the rest.
struct Pace {
    per_second: f64,
    begun: Instant,
    count: u64,
}

impl Pace {
    fn new(per_second: f64) -> Self {
        Self { per_second, begun: Instant::now(), count: 0 }
    }

    /// How long until the next message is due.
    fn due_in(&mut self) -> Duration {
        let due = self.count as f64 / self.per_second;
        self.count += 1;
        Duration::try_from_secs_f64(due - self.begun.elapsed().as_secs_f64()).unwrap_or_default()
    }
}

struct Sender<'a> {
    publisher: Publisher<Bytes>,
    lane: Lane,
    meta: Meta,
    pace: Option<Pace>,
    timeout: Duration,
    /// Groups whose handling is waited for.
    follow: Option<Follow>,
    /// The topic does not wait for room.
    fails_at_once: bool,
    signals: &'a Signals,
    sent: u64,
    sent_bytes: u64,
}

impl Sender<'_> {
    fn send(&mut self, payload: &[u8]) -> Outcome {
        if let Some(pace) = &mut self.pace {
            let wait = pace.due_in();
            if !wait.is_zero() && self.signals.sleep(wait) {
                return Err(self.signals.interrupted());
            }
        }
        if self.signals.raised() {
            return Err(self.signals.interrupted());
        }
        let begun = Instant::now();
        let sequence = loop {
            match self.publisher.publish_bytes_with(self.lane, payload, &self.meta) {
                Ok(sequence) => break sequence,
                Err(PublishError::Full(_)) if self.signals.raised() => {
                    return Err(self.signals.interrupted());
                }
                Err(PublishError::Full(mut full)) => {
                    full.waited = begun.elapsed();
                    if full.waited >= self.timeout || self.fails_at_once {
                        return Err(PublishError::Full(full).into());
                    }
                }
                // At the quota's pace then, however long that takes.
                Err(PublishError::Throttled { retry_after, .. }) => {
                    if self.signals.sleep(retry_after) {
                        return Err(self.signals.interrupted());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        };
        self.sent += 1;
        self.sent_bytes += payload.len() as u64;
        match &self.follow {
            Some(follow) => follow.wait(self.lane, sequence, self.signals),
            None => Ok(()),
        }
    }
}

fn summary(sender: &Sender<'_>, took: Duration) -> String {
    let per_second = sender.sent as f64 / took.as_secs_f64().max(1e-9);
    format!(
        "published {}, {}, in {} ({}/s)",
        units::counted(sender.sent, "message"),
        units::bytes(sender.sent_bytes),
        units::duration(took),
        units::rate(per_second)
    )
}

fn repeat(place: &Place, sender: &mut Sender<'_>, payload: &[u8], count: u64) -> Outcome {
    let progress = Progress::new(place, Some(count), "messages");
    for _ in 0..count {
        sender.send(payload)?;
        progress.show(sender.sent, sender.sent);
    }
    Ok(())
}

/// Publishes each line of standard input, without its line end.
fn lines(place: &Place, sender: &mut Sender<'_>, most: Option<u64>) -> Outcome {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        place.note("each line is a message; Ctrl-D ends");
    }
    let progress = match stdin.is_terminal() {
        true => Progress::none(),
        false => Progress::new(place, file_bytes(), "bytes"),
    };
    let mut input = Interruptible { signals: sender.signals, stdin: stdin.lock() };
    let mut reader = BufReader::with_capacity(64 << 10, &mut input);
    let mut line = Vec::new();
    let mut read_bytes = 0;
    while most.is_none_or(|most| sender.sent < most) {
        line.clear();
        let len =
            reader.read_until(b'\n', &mut line).map_err(|error| Failure::input("standard input", &error))?;
        if sender.signals.raised() {
            // Half a line is no message.
            return Err(sender.signals.interrupted());
        }
        if len == 0 {
            break;
        }
        read_bytes += len as u64;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        sender.send(&line).map_err(|failure| at_line(failure, sender.sent + 1))?;
        progress.show(sender.sent, read_bytes);
    }
    Ok(())
}

fn at_line(failure: Failure, line: u64) -> Failure {
    match failure {
        Failure::Said(code, message) => Failure::Said(code, format!("line {line}: {message}")),
        quiet @ Failure::Quiet(_) => quiet,
    }
}

/// Standard input that looks ended once a signal has come.
struct Interruptible<'a, R> {
    signals: &'a Signals,
    stdin: R,
}

impl<R: Read> Read for Interruptible<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.signals.wait_readable(std::io::stdin()) { self.stdin.read(buffer) } else { Ok(0) }
    }
}

/// Bytes of standard input, if it is a file.
fn file_bytes() -> Option<u64> {
    let status = rustix::fs::fstat(std::io::stdin()).ok()?;
    let kind = rustix::fs::FileType::from_raw_mode(status.st_mode);
    (kind == rustix::fs::FileType::RegularFile && status.st_size > 0).then_some(status.st_size as u64)
}

/// A line on the terminal that tells how far a long publication is.
struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
}

impl Progress {
    /// What is done in less time than this needs no progress.
    const PATIENCE: Duration = Duration::from_millis(700);

    fn none() -> Self {
        Self { bar: None, begun: Instant::now() }
    }

    fn new(place: &Place, total: Option<u64>, unit: &str) -> Self {
        if place.quiet || !std::io::stderr().is_terminal() {
            return Self::none();
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let template = match (total, unit) {
            (Some(_), "bytes") => "{bar:30} {bytes}/{total_bytes}, {msg} messages, {eta} to go",
            (Some(_), _) => "{bar:30} {human_pos}/{human_len} messages, {eta} to go",
            (None, _) => "{spinner} {msg} messages, {bytes}, {elapsed}",
        };
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar: Some(bar), begun: Instant::now() }
    }

    fn show(&self, messages: u64, position: u64) {
        let Some(bar) = &self.bar else { return };
        // Looking at the clock costs more than many a message.
        if !messages.is_multiple_of(64) && messages > 64 {
            return;
        }
        if bar.is_hidden() {
            if self.begun.elapsed() < Self::PATIENCE {
                return;
            }
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
        bar.set_message(units::count(messages));
        bar.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
