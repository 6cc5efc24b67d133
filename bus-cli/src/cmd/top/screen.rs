//! The live table in a terminal.

use super::meter::Row;
use super::plain::Cells;
use super::verdict::Verdict;
use super::view::{Key, View};
use super::{INTERVAL_MIN, Look, Looker};
use crate::exit::{Code, Failure, Outcome};
use crate::place::Place;
use crate::signals::Signals;
use crate::units;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table, TableState};
use ratatui::{DefaultTerminal, Frame};
use std::io;
use std::time::{Duration, Instant};

/// A key is answered, and a signal noticed, within this time.
const TICK: Duration = Duration::from_millis(100);
/// The longest interval that `+` leads to.
const INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Terminals of this width have room for the names of the sort keys.
const HELP_WIDE: u16 = 120;

/// A column: heading, what it shows, how wide it is, and from which terminal width on it is there.
struct Column {
    heading: &'static str,
    cell: fn(&mut Cells) -> String,
    width: u16,
    from_width: u16,
    is_number: bool,
    key: Option<Key>,
}

const fn words(heading: &'static str, cell: fn(&mut Cells) -> String, width: u16, from_width: u16) -> Column {
    Column { heading, cell, width, from_width, is_number: false, key: None }
}

const fn number(
    heading: &'static str,
    cell: fn(&mut Cells) -> String,
    width: u16,
    from_width: u16,
    key: Option<Key>,
) -> Column {
    Column { heading, cell, width, from_width, is_number: true, key }
}

fn take(text: &mut String) -> String {
    std::mem::take(text)
}

/// All columns; topic and verdict share what is left over.
const COLUMNS: [Column; 13] = [
    Column { key: Some(Key::Topic), ..words("TOPIC", |cells| take(&mut cells.topic), 0, 0) },
    words("LANE", |cells| take(&mut cells.lane), 8, 60),
    words("GROUP", |cells| take(&mut cells.group), 12, 0),
    number("IN/S", |cells| take(&mut cells.rate_in), 6, 0, Some(Key::In)),
    number("OUT/S", |cells| take(&mut cells.rate_out), 6, 0, Some(Key::Out)),
    number("LAG", |cells| take(&mut cells.lag), 7, 0, Some(Key::Lag)),
    number("BYTES", |cells| take(&mut cells.bytes), 8, 110, Some(Key::Bytes)),
    number("OLDEST", |cells| take(&mut cells.age), 12, 100, Some(Key::Age)),
    number("FILL", |cells| take(&mut cells.fill), 5, 80, Some(Key::Fill)),
    number("PUBS", |cells| take(&mut cells.publishers), 4, 120, None),
    number("SUBS", |cells| take(&mut cells.readers), 4, 120, None),
    words("READ BY", |cells| take(&mut cells.read_by), 20, 150),
    words("VERDICT", |cells| take(&mut cells.verdict), 0, 0),
];

/// What the keys act upon.
enum Mode {
    Table,
    /// The filter is being typed; what it was before.
    Filter(String),
}

struct Screen<'a> {
    place: &'a Place,
    looker: Looker,
    look: Look,
    view: View,
    mode: Mode,
    interval: Duration,
    paused: bool,
    table: TableState,
    /// Agents and the supervisor, in words.
    status: String,
}

pub(super) fn run(
    place: &Place,
    signals: &Signals,
    mut looker: Looker,
    view: View,
    interval: Duration,
) -> Outcome {
    let look = looker.look()?;
    let fail = |error: io::Error| Failure::new(Code::Error, format_args!("cannot use the terminal: {error}"));
    let mut terminal = ratatui::try_init().map_err(fail)?;
    let mut screen = Screen {
        place,
        looker,
        look,
        view,
        mode: Mode::Table,
        interval,
        paused: false,
        table: TableState::default(),
        status: String::new(),
    };
    screen.refresh_status();
    let outcome = screen.live(&mut terminal, signals);
    ratatui::restore();
    outcome
}

impl Screen<'_> {
    fn live(&mut self, terminal: &mut DefaultTerminal, signals: &Signals) -> Outcome {
        let fail = |error: io::Error| Failure::new(Code::Error, format_args!("the terminal failed: {error}"));
        let mut next = Instant::now() + self.interval;
        loop {
            terminal.draw(|frame| self.draw(frame)).map_err(fail)?;
            let wait = next.saturating_duration_since(Instant::now()).min(TICK);
            if event::poll(wait).map_err(fail)? {
                match event::read().map_err(fail)? {
                    Event::Key(key) if key.kind != KeyEventKind::Release && !self.press(key) => return Ok(()),
                    _ => {}
                }
            }
            if signals.raised() {
                return Ok(());
            }
            if Instant::now() >= next {
                next = Instant::now() + self.interval;
                if !self.paused {
                    self.look = self.looker.look()?;
                    self.refresh_status();
                }
            }
        }
    }

    fn refresh_status(&mut self) {
        let bus = &self.looker.watch.bus;
        let memory_bytes: u64 = self.look.samples.iter().map(|sample| sample.state.memory_bytes).sum();
        self.status = format!(
            "bus {}   supervisor {}   {} agents   {} topics   {}",
            self.place.bus,
            crate::cmd::info::supervisor_text(bus),
            bus.participants().len(),
            self.look.samples.len(),
            units::bytes(memory_bytes),
        );
        let unreadable = self.looker.watch.unreadable.len();
        if unreadable > 0 {
            self.status += &format!("   {unreadable} cannot be read, see `shmbus ls`");
        }
    }

    /// Acts on a key. False to leave.
    fn press(&mut self, key: KeyEvent) -> bool {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return !matches!(key.code, KeyCode::Char('c' | 'd'));
        }
        if let Mode::Filter(before) = &mut self.mode {
            match key.code {
                KeyCode::Esc => {
                    self.view.filter = std::mem::take(before);
                    self.mode = Mode::Table;
                }
                KeyCode::Enter => self.mode = Mode::Table,
                KeyCode::Backspace => _ = self.view.filter.pop(),
                KeyCode::Char(letter) => self.view.filter.push(letter),
                _ => {}
            }
            return true;
        }
        match key.code {
            KeyCode::Char('q') => return false,
            KeyCode::Esc if self.view.filter.is_empty() => return false,
            KeyCode::Esc => self.view.filter.clear(),
            KeyCode::Char('/') => self.mode = Mode::Filter(self.view.filter.clone()),
            KeyCode::Char('a') => self.view.all ^= true,
            KeyCode::Char('p' | ' ') => self.paused ^= true,
            KeyCode::Char('+') => self.interval = (self.interval * 2).min(INTERVAL_MAX),
            KeyCode::Char('-') => self.interval = (self.interval / 2).max(INTERVAL_MIN),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::PageDown => self.scroll(10),
            KeyCode::PageUp => self.scroll(-10),
            KeyCode::Home => *self.table.offset_mut() = 0,
            KeyCode::Char(letter) => {
                if let Some(sort) = Key::ALL.into_iter().find(|sort| sort.letter() == letter) {
                    self.view.sort = sort;
                }
            }
            _ => {}
        }
        true
    }

    fn scroll(&mut self, rows: isize) {
        let most = self.view.choose(&self.look.rows).len().saturating_sub(1);
        let offset = self.table.offset_mut();
        *offset = offset.saturating_add_signed(rows).min(most);
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [status, table, help] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)])
                .areas(frame.area());
        frame.render_widget(Paragraph::new(self.status.as_str()).style(Modifier::BOLD), status);
        self.draw_table(frame, table);
        frame.render_widget(Paragraph::new(self.help(help.width >= HELP_WIDE)), help);
    }

    fn draw_table(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.view.choose(&self.look.rows);
        if rows.is_empty() {
            let text = match self.view.filter.as_str() {
                "" => "\nno topics yet; `shmbus pub NAME hello` makes one".to_owned(),
                filter => format!("\nnothing matches {filter:?}; Esc shows everything"),
            };
            frame.render_widget(Paragraph::new(text).alignment(Alignment::Center), area);
            return;
        }
        let columns: Vec<&Column> = COLUMNS.iter().filter(|column| area.width >= column.from_width).collect();
        let widths = columns.iter().map(|column| match column.heading {
            "TOPIC" => Constraint::Fill(2),
            "VERDICT" => Constraint::Fill(3),
            _ => Constraint::Length(column.width),
        });
        let header = columns.iter().map(|column| {
            let style = match column.key {
                Some(key) if key == self.view.sort => Modifier::BOLD | Modifier::UNDERLINED,
                _ => Modifier::BOLD,
            };
            Cell::from(aligned(column.heading.to_owned(), column)).style(style)
        });
        let mut above: Option<&Row> = None;
        let sort = self.view.sort;
        let lines: Vec<TableRow<'_>> = rows
            .iter()
            .map(|row| {
                let mut cells = Cells::of(row);
                // Under its like, a name is left out.
                if sort == Key::Topic && above.is_some_and(|above| above.topic == row.topic) {
                    cells.topic.clear();
                    if above.is_some_and(|above| above.lane == row.lane) {
                        cells.lane.clear();
                    }
                }
                above = Some(row);
                let cells = columns.iter().map(|column| {
                    let cell = Cell::from(aligned((column.cell)(&mut cells), column));
                    if column.heading == "VERDICT" { cell.style(color(row)) } else { cell }
                });
                TableRow::new(cells.collect::<Vec<_>>())
            })
            .collect();
        let table = Table::new(lines, widths.collect::<Vec<_>>())
            .header(TableRow::new(header.collect::<Vec<_>>()))
            .column_spacing(1);
        frame.render_stateful_widget(table, area, &mut self.table);
    }

    fn help(&self, is_wide: bool) -> Line<'_> {
        if let Mode::Filter(_) = self.mode {
            return Line::from(vec![
                Span::styled(format!("/{}", self.view.filter), Modifier::BOLD),
                Span::raw("_   Enter keeps it, Esc takes it back"),
            ]);
        }
        let filter = match self.view.filter.as_str() {
            "" => String::new(),
            filter => format!(" ({filter})"),
        };
        let sorts: Vec<String> = Key::ALL
            .iter()
            .map(|key| match (*key == self.view.sort, is_wide) {
                (true, true) => format!("{}:{}*", key.letter(), key.name()),
                (false, true) => format!("{}:{}", key.letter(), key.name()),
                (_, false) => key.letter().to_string(),
            })
            .collect();
        let sorts = match is_wide {
            true => format!("sort by {}", sorts.join(" ")),
            false => format!("{} sort ({})", sorts.concat(), self.view.sort.name()),
        };
        let lanes = if self.view.all { "used lanes" } else { "all lanes" };
        let pause = if self.paused { "go on" } else { "pause" };
        let every = units::duration(self.interval);
        let text = format!("q quit  / filter{filter}  {sorts}  a {lanes}  p {pause}  +- every {every}");
        let style = if self.paused { Style::new().fg(Color::Yellow) } else { Style::new().dim() };
        Line::styled(text, style)
    }
}

fn aligned(text: String, column: &Column) -> Line<'static> {
    Line::from(text).alignment(if column.is_number { Alignment::Right } else { Alignment::Left })
}

/// Green can go on like this, red cannot.
fn color(row: &Row) -> Style {
    if row.breaker.is_some() {
        return Style::new().fg(Color::Red);
    }
    let group = row.group.as_ref();
    let has_dead = group.is_some_and(|group| group.position.dead_count > 0);
    match group.map(|group| group.verdict) {
        Some(Verdict::Idle | Verdict::KeepsUp) if has_dead => Style::new().fg(Color::Yellow),
        None | Some(Verdict::Idle) => Style::new().dim(),
        Some(Verdict::KeepsUp) => Style::new().fg(Color::Green),
        Some(Verdict::Steady | Verdict::Drains(_) | Verdict::NoReader(_)) => Style::new().fg(Color::Yellow),
        Some(Verdict::FallsBehind(_) | Verdict::Stalled | Verdict::Full) => Style::new().fg(Color::Red),
    }
}
