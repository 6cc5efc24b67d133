//! `shmbus top`: rates, lag and fill of every topic, lane and group, again and again.

mod meter;
mod plain;
mod screen;
mod verdict;
mod view;

use crate::exit::{Code, Failure, Outcome};
use crate::output;
use crate::place::Place;
use crate::signals::{Signals, is_output_closed};
use crate::units;
use crate::watch::{Sample, Watch};
use meter::{Meter, Row};
use std::io::IsTerminal;
use std::time::Duration;
use view::{Key, View};

/// Flags of `top`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only topics, groups and readers with this in their names
    filter: Option<String>,
    /// Print one table, measured over one interval, and end; needs no terminal
    #[arg(long, short = '1')]
    once: bool,
    /// One JSON object for each interval, a line each; needs no terminal
    #[arg(long)]
    json: bool,
    /// Time between two looks
    #[arg(long, short, default_value = "1s", value_name = "TIME", value_parser = parse_interval)]
    interval: Duration,
    /// What to sort by
    #[arg(long, short, value_enum, default_value_t = Key::Topic)]
    sort: Key,
    /// Show lanes that have never carried a message too
    #[arg(long, short)]
    all: bool,
}

/// Shorter intervals measure the looking.
const INTERVAL_MIN: Duration = Duration::from_millis(20);

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = units::parse_duration(text)?;
    if interval < INTERVAL_MIN {
        Err(format!("at least {}", units::duration(INTERVAL_MIN)))
    } else {
        Ok(interval)
    }
}

/// One look at the bus.
struct Look {
    samples: Vec<Sample>,
    rows: Vec<Row>,
}

/// Looks at the bus and remembers what it was like before.
struct Looker {
    watch: Watch,
    meter: Meter,
}

impl Looker {
    fn look(&mut self) -> Result<Look, Failure> {
        self.watch.check_alive()?;
        let samples = self.watch.sample()?;
        let rows = self.meter.update(&samples);
        Ok(Look { samples, rows })
    }
}

pub(crate) fn run(place: &Place, args: &Args) -> Outcome {
    let signals = Signals::catch()?;
    let mut looker = Looker { watch: Watch::new(place.view()?, None), meter: Meter::default() };
    let view = View::new(args.sort, args.filter.clone().unwrap_or_default(), args.all);
    if !args.once && !args.json {
        if !std::io::stdout().is_terminal() {
            let message = "standard output is no terminal; use `top --once` or `top --json`";
            return Err(Failure::new(Code::Usage, message));
        }
        return screen::run(place, &signals, looker, view, args.interval);
    }
    looker.look()?;
    loop {
        if signals.sleep(args.interval) {
            return if args.once { Err(signals.interrupted()) } else { Ok(()) };
        }
        let look = looker.look()?;
        if args.json {
            output::print_json_line(&plain::json(place, &look, args.interval))?;
        } else {
            looker.watch.complain();
            if look.rows.is_empty() {
                place.note(format_args!("bus {:?} has no topics yet", place.bus));
            } else {
                output::print(&plain::table(&view.choose(&look.rows)))?;
            }
        }
        if args.once {
            return Ok(());
        }
        if is_output_closed() {
            return Ok(());
        }
    }
}
