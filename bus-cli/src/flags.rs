//! What can be said on the command line. The flags of a command stand in its own file.

use crate::cmd;
use crate::place::Place;

/// Shown below the list of commands.
const MORE: &str = "\
Exit codes:
  0  fine; also when Ctrl-C or a closed pipe ended a command that goes on until then
  1  error; problems found (fsck)
  2  wrong usage: a flag, a name or a value that is not allowed
  3  not found: the bus, the topic or the message is not there (any more)
  4  timed out
  5  a threshold was passed (lag --max, lag --max-age, a figure of bench)
  6  not permitted, or incompatible with what exists
  7  the message, or the request, became a dead letter (pub --wait-for, request)
  8  its time to live was over (pub --wait-for)
  9  the group did not take it: filtered out, missed, or let go of (pub --wait-for)
  128 and more: ended by a signal before its work was done

Two terminals to begin with:
  shmbus sub greetings
  shmbus pub greetings 'hello there'";

/// A message bus in shared memory, for the processes of one machine.
#[derive(Debug, clap::Parser)]
#[command(name = "shmbus", version, after_help = MORE, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Start a bus and its supervisor; returns when it is ready
    Up(cmd::up::Args),
    /// Take a bus down and give its memory back
    Down(cmd::down::Args),
    /// Create a topic with options of its own
    Create(cmd::create::Args),
    /// List topics, or buses
    #[command(visible_alias = "list")]
    Ls(cmd::ls::Args),
    /// Show everything about a topic, or about the bus
    Info(cmd::info::Args),
    /// Publish a message, a file, or each line of standard input
    #[command(visible_alias = "publish")]
    Pub(cmd::publish::Args),
    /// Ask a question in a topic or of a mailbox, and print the answer
    Request(cmd::request::Args),
    /// Print the messages of one or more topics as they come, or run a command for each
    #[command(visible_aliases = ["subscribe", "echo"])]
    Sub(cmd::subscribe::Args),
    /// List the processes on a bus: topics, rates, status
    Ps(cmd::ps::Args),
    /// Dead letters: look at them, publish them again, remove them
    Dlq(cmd::dlq::Args),
    /// Say something to a group: have a keyed group's members share its keys anew
    Group(cmd::group::Args),
    /// Show or set what each publisher of a topic may publish
    Quota(cmd::quota::Args),
    /// Publish what a topic still holds of a time once more, in another topic
    Replay(cmd::replay::Args),
    /// Follow one conversation over all topics, by its correlation or one of its messages
    Trace(cmd::trace::Args),
    /// Show how far each group is behind
    Lag(cmd::lag::Args),
    /// Watch rates, lag and fill of every topic, lane and group
    Top(cmd::top::Args),
    /// Measure the bus against the floor of this machine
    Bench(cmd::bench::Args),
    /// Five agents in a pipeline, with their lag while they work
    Demo(cmd::demo::Args),
    /// One agent of the demo
    #[command(hide = true)]
    DemoAgent(cmd::demo::AgentArgs),
    /// What ends the commands of a `sub --exec` that was killed
    #[command(hide = true)]
    ExecGuard(cmd::subscribe::GuardArgs),
    /// Check every word of a bus that has a rule; takes no part in it
    Fsck(cmd::fsck::Args),
    /// Remove what processes that ended without a chance to clean up have left
    Gc(cmd::gc::Args),
}
