//! `shmbus dlq`: dead letters, to look at, to publish again, or to remove.

mod show;

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::table::columns;
use crate::text;
use crate::units;
use bus_shm::dead_letters::{self, DeadLetter, Filter, LetterId};
use bus_shm::mailbox;
use serde_json::json;
use show::as_json;
use std::collections::HashSet;
use std::io::{IsTerminal, Write};

/// Flags of `dlq`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List dead letters
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show everything about one dead letter
    Show(show::Args),
    /// Publish dead letters again; every group of the topic gets them, and they are dead letters no more
    Replay(ReplayArgs),
    /// Remove dead letters for good
    Purge(PurgeArgs),
}

/// Flags of `dlq ls`.
#[derive(Debug, clap::Args)]
struct LsArgs {
    /// Only those of this topic
    topic: Option<String>,
    /// Those of all topics, which is also what happens without a topic
    #[arg(long, conflicts_with = "topic")]
    all: bool,
    /// Only those of this group
    #[arg(long, short, value_name = "NAME")]
    group: Option<String>,
    /// Only those whose error has this in it, in small or capital letters
    #[arg(long, short, value_name = "TEXT")]
    error: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Which dead letters are meant. One of these must be said, so that nothing happens to all of them by an oversight.
#[derive(Debug, clap::Args)]
#[group(id = "which", required = true, multiple = true)]
struct Which {
    /// Those of this topic
    topic: Option<String>,
    /// Those of all topics
    #[arg(long, conflicts_with_all = ["topic", "ids"])]
    all: bool,
    /// Those of this group
    #[arg(long, short, value_name = "NAME")]
    group: Option<String>,
    /// Those whose error has this in it, in small or capital letters
    #[arg(long, short, value_name = "TEXT")]
    error: Option<String>,
    /// These; may be given several times
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<LetterId>,
}

/// Flags of `dlq replay`.
#[derive(Debug, clap::Args)]
struct ReplayArgs {
    #[command(flatten)]
    which: Which,
    /// Publish them in this topic instead of the ones that they are from; it must accept their types
    #[arg(long, value_name = "TOPIC")]
    to: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Name of this process in listings
    #[arg(long, default_value = "shmbus-dlq", value_name = "NAME")]
    service: String,
}

/// Flags of `dlq purge`.
#[derive(Debug, clap::Args)]
struct PurgeArgs {
    #[command(flatten)]
    which: Which,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Name of this process in listings
    #[arg(long, default_value = "shmbus-dlq", value_name = "NAME")]
    service: String,
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    match &args.command {
        Command::Ls(args) => list(place, args),
        Command::Show(args) => show::run(place, args),
        Command::Replay(args) => replay(place, args),
        Command::Purge(args) => purge(place, args),
    }
}

fn list(place: &Place, args: &LsArgs) -> Outcome {
    let filter = Filter {
        topic: args.topic.as_deref().map(Place::resolve).transpose()?,
        group: args.group.clone(),
        error: args.error.clone(),
        ids: Vec::new(),
    };
    let letters = dead_letters::list(&place.view()?, &filter)?;
    if args.json {
        let letters: Vec<_> = letters.iter().map(as_json).collect();
        return output::print_json(&json!({ "bus": place.bus, "dead_letters": letters }));
    }
    if letters.is_empty() {
        let what = if filter == Filter::default() { "" } else { " like that" };
        place.note(format_args!("no dead letters{what}"));
        return Ok(());
    }
    output::print(&table(&letters))
}

fn table(letters: &[DeadLetter]) -> String {
    let mut table = columns(&[
        "ID",
        "TOPIC",
        "GROUP",
        "LANE",
        ">SEQUENCE",
        "TYPE",
        ">BYTES",
        ">ATTEMPTS",
        ">LAST FAILED",
        "IN",
        "ERROR",
    ]);
    for letter in letters {
        table.row([
            letter.id.to_string(),
            mailbox::display(&letter.topic).into_owned(),
            letter.group.clone(),
            letter.lane_name.to_owned(),
            units::count(letter.sequence),
            letter.type_name.clone(),
            units::bytes(u64::from(letter.len_bytes)),
            letter.attempts.to_string(),
            format!("{} ago", units::ago(letter.last_ns)),
            show::place(letter),
            text::escaped_cell(&letter.error),
        ]);
    }
    table.render()
}

/// The letters that are meant, looked up before anything is done. One that was named and is not there is an error.
fn choose(place: &Place, which: &Which) -> Result<Vec<DeadLetter>, Failure> {
    let filter = Filter {
        topic: which.topic.as_deref().map(Place::resolve).transpose()?,
        group: which.group.clone(),
        error: which.error.clone(),
        ids: which.ids.clone(),
    };
    let letters = dead_letters::list(&place.view()?, &filter)?;
    let found: HashSet<LetterId> = letters.iter().map(|letter| letter.id).collect();
    match which.ids.iter().find(|id| !found.contains(id)) {
        Some(missing) => Err(not_found(place, *missing)),
        None => Ok(letters),
    }
}

fn not_found(place: &Place, id: LetterId) -> Failure {
    Failure::new(
        Code::NotFound,
        format_args!(
            "bus {:?} has no such dead letter {id}: it was replayed or purged, or is another topic's or group's; see `shmbus dlq ls`",
            place.bus
        ),
    )
}

/// Exactly these letters: what has died since they were looked up is not meant.
fn exactly(letters: &[DeadLetter]) -> Filter {
    Filter { ids: letters.iter().map(|letter| letter.id).collect(), ..Filter::default() }
}

fn replay(place: &Place, args: &ReplayArgs) -> Outcome {
    let target = args.to.as_deref().map(Place::resolve_checked).transpose()?;
    let letters = choose(place, &args.which)?;
    let replayed = if letters.is_empty() {
        0
    } else {
        let bus = place.join(&args.service, false)?;
        dead_letters::replay(&bus, &exactly(&letters), target.as_deref())?
    };
    if args.json {
        return output::print_json(&json!({ "bus": place.bus, "replayed": replayed, "to": args.to }));
    }
    let to = args.to.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
    output::print(&format!("replayed {}{to}\n", units::counted(replayed, "dead letter")))
}

fn purge(place: &Place, args: &PurgeArgs) -> Outcome {
    let can_ask = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !args.yes && !can_ask {
        let message = "purged letters are gone for good, and there is no terminal to ask at; \
                       nothing was purged. Say --yes if you mean it";
        return Err(Failure::new(Code::Usage, message));
    }
    let letters = choose(place, &args.which)?;
    if !letters.is_empty() && !args.yes && !confirm(letters.len() as u64)? {
        return Err(Failure::new(Code::Error, "nothing was purged"));
    }
    let purged = if letters.is_empty() {
        0
    } else {
        let bus = place.join(&args.service, false)?;
        dead_letters::purge(&bus, &exactly(&letters))?
    };
    if args.json {
        return output::print_json(&json!({ "bus": place.bus, "purged": purged }));
    }
    output::print(&format!("purged {}\n", units::counted(purged, "dead letter")))
}

fn confirm(count: u64) -> Result<bool, Failure> {
    let question =
        format!("purge {}? They cannot be brought back [y/N] ", units::counted(count, "dead letter"));
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(question.as_bytes()).and_then(|()| err.flush());
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| Failure::input("standard input", &error))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
