//! A death at every instruction, and a standstill before every store: docs/reliability.md says what is proved and how.
//!
//! A child of its own, optimised, is stepped through one operation. After each step shared memory is compared with what it was;
//! where it has changed, the bus is copied as it is, and survivors are let loose on the copy, where the child is dead. Between two
//! such points its death leaves the same bytes behind, so that the points are all covered.
//!
//! What a copy cannot show is done with a child for each point: it is killed there for good, or left standing there while
//! survivors work beside it, and then let go on.

pub mod late;
pub mod survivors;
pub mod trace;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use stepped::body::{Stream, body};
use stepped::operations::{Operation, Part, Wake};
use stepped::scene::{BUS, Scene, WITNESS};
use stepped::told::Facts;
use survivors::{Serving, Survivors, Verdict};
use trace::{Step, Traced};
use watch::{Fate, Snapshot, Watch, decide};

/// Checks that run at the same time; most of their time they wait.
const WORKERS: usize = 12;
/// How long a child may take to come to its end when it has been let go.
const PATIENCE: Duration = Duration::from_secs(20);
/// Instructions of an operation that is over at last.
const STEPS_MAX: usize = 3_000_000;

/// How much is done with a child for each point.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Instructions, evenly spread, at which it is stopped besides those before and after each change.
    pub stops: usize,
    /// Points at which it is stopped in a control operation.
    pub control_stops: usize,
    /// Instructions that all children of a control operation that are stopped may be stepped through together; in long ones without
    /// calls there are fewer stops.
    pub control_steps: usize,
    /// Points at which it is killed for good.
    pub kills: usize,
    /// States of a control operation in which it is dead on a copy. Of those that follow, which are much alike, every eighth.
    pub control_states: usize,
}

const MOST: usize = usize::MAX;

impl Effort {
    /// For every run of the test suite.
    pub const USUAL: Self =
        Self { stops: 12, control_stops: 64, control_steps: 500_000, kills: 8, control_states: 64 };
    /// Every single instruction of the data path, and every store and system call of the others.
    pub const ALL: Self =
        Self { stops: MOST, control_stops: MOST, control_steps: MOST, kills: MOST, control_states: MOST };
}

/// Where an operation was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    /// Instructions done.
    step: usize,
    /// System calls done, and instructions since.
    calls: usize,
    since_call: usize,
}

/// A system call, or a store to a shared page.
#[derive(Clone, Copy, Debug)]
struct Event {
    /// Where it is about to happen: everything that it depends on is loaded.
    before: Point,
    /// Where it has happened, and nothing since.
    after: Point,
}

/// What was found about an operation.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: &'static str,
    /// Instructions from its first to its last, each of which is a point at which it may die.
    pub instructions: usize,
    /// System calls among them.
    pub calls: usize,
    /// How many different states it leaves behind.
    pub states: usize,
    /// Deaths that were tried on copies, with a supervisor and without.
    pub copies: usize,
    /// Children that were killed for good.
    pub kills: usize,
    /// Children that were stopped and went on.
    pub stops: usize,
    /// What was wrong, and where.
    pub failures: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// A directory of one bus, removed when dropped.
struct Place {
    dir: PathBuf,
    page: PathBuf,
}

impl Place {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/dev/shm/shmbus-steps-{}-{count}", std::process::id()));
        std::fs::create_dir(&dir).expect("a directory in shared memory");
        Self { page: dir.with_extension("told"), dir }
    }

    fn bus(&self) -> PathBuf {
        bus_shm::directory::base_dir(Some(&self.dir)).join(BUS)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A supervisor that is on its way out may still put a file into it.
        for _ in 0..100 {
            match std::fs::remove_dir_all(&self.dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => break,
            }
        }
        let _ = std::fs::remove_file(&self.page);
    }
}

/// A child that stands at the beginning of its operation, and what is around it.
struct Stage {
    operation: &'static Operation,
    child: Traced,
    serving: Option<Serving>,
    /// Messages of the setup: at least, and at most.
    setup: (u64, u64),
    asker: Option<std::thread::JoinHandle<()>>,
    place: Place,
}

impl Stage {
    /// Sets the scene. `survivors` says whether they are there from the beginning.
    fn set(
        program: &Path,
        operation: &'static Operation,
        with_survivors: bool,
    ) -> Verdict<(Self, Option<Survivors>)> {
        let place = Place::new();
        let scene = operation.scene;
        let mut serving = None;
        if scene.exists {
            serving = Some(Serving::start(&place.dir)?);
            let bus = Scene::bus(&place.dir, "setup");
            let topic = scene.topic(&bus).map_err(|error| error.to_string())?;
            if scene.ready > 0 {
                let mut publisher = topic.publisher().map_err(|error| error.to_string())?;
                for count in 0..scene.ready {
                    let body = body(Stream::Setup.number(count), scene.body_bytes);
                    scene.publish(&mut publisher, &body).map_err(|error| error.to_string())?;
                }
            }
        }
        let start = |role| Traced::start(program, operation.name, role, &place.dir, &place.page);
        let mut dead = operation.dead.map(|_| start("dead"));
        // A supervisor that is not to serve yet can register nobody; other children may need the witness's place first.
        let before = operation.part == Part::Supervisor;
        let attach = |now| {
            let mut attached = (with_survivors && scene.exists && now)
                .then(|| Survivors::attach(&place.dir, scene, false))
                .transpose()?;
            attached.as_mut().map_or(Ok(()), |survivors| survivors.take_part(operation.part))?;
            Ok::<_, String>(attached)
        };
        let early = attach(before)?;
        let child = start("child");
        let survivors = attach(!before)?.or(early);
        if let Some(dead) = &mut dead {
            serving = None;
            dead.kill();
        }
        let setup = (scene.ready, scene.ready);
        let mut this = Self { operation, child, serving, setup, asker: None, place };
        this.child.begin();
        Ok((this, survivors))
    }

    fn facts(&self) -> Facts {
        self.child.told().facts()
    }

    /// One step, helping where the child sleeps for something that somebody else must do.
    fn step(&mut self) -> Step {
        let step = self.child.step();
        match step {
            Step::Asleep(_) => self.help(),
            Step::Called(_) => {
                if let Some(serving) = &self.serving {
                    serving.wait_until_idle();
                }
            }
            _ => {}
        }
        let is_asked = self.asker.as_ref().is_some_and(std::thread::JoinHandle::is_finished);
        if matches!(step, Step::Asleep(_)) && is_asked { Step::Ended } else { step }
    }

    fn help(&mut self) {
        match self.operation.wake {
            Wake::Publish if self.setup.1 == self.operation.scene.ready => {
                let bus = Scene::bus(&self.place.dir, "setup");
                let body = body(Stream::Setup.number(self.setup.1), self.operation.scene.body_bytes);
                let scene = self.operation.scene;
                let published = scene.topic(&bus).map(|topic| {
                    topic.publisher().map(|mut publisher| scene.publish(&mut publisher, &body).map(|_| ()))
                });
                assert!(matches!(published, Ok(Ok(Ok(())))), "{published:?}");
                self.setup.1 += 1;
            }
            Wake::Requests => self.ask(),
            _ => {}
        }
    }

    /// Registers a process, creates a topic, and leaves.
    fn ask(&mut self) {
        let dir = self.place.dir.clone();
        self.asker.get_or_insert_with(|| {
            std::thread::spawn(move || {
                let opened = bus_shm::Bus::builder(BUS).dir(&dir).service("asker").host(false).open();
                if let Ok(bus) = opened {
                    let _ =
                        bus.topic_builder::<bus_shm::Bytes>("other").capacity(16).with_group(WITNESS).open();
                }
            })
        });
    }

    /// Goes to a point. False if the operation was over before.
    fn go_to(&mut self, point: Point) -> bool {
        let mut steps = point.step;
        // At full speed where nothing on the way needs help.
        if self.operation.wake != Wake::Publish {
            if self.operation.wake == Wake::Requests {
                self.ask();
            }
            if !self.child.pass_calls(point.calls) {
                return false;
            }
            steps = point.since_call;
        }
        let mut done = 0;
        while done < steps {
            match self.step() {
                Step::Ended => return false,
                Step::Asleep(_) => {}
                _ => done += 1,
            }
        }
        true
    }
}

/// One death on a copy.
struct Death {
    point: Point,
    at: u64,
    snapshot: Snapshot,
    facts: Facts,
    setup: (u64, u64),
}

/// Steps through an operation in an optimised child, `program`, and tries every point.
///
/// # Panics
/// Where the child does not do what it should.
pub fn prove(program: &Path, operation: &'static Operation, effort: Effort) -> Line {
    let begun = Instant::now();
    let mut line = Line {
        name: operation.name,
        instructions: 0,
        calls: 0,
        states: 0,
        copies: 0,
        kills: 0,
        stops: 0,
        failures: Vec::new(),
        took: Duration::ZERO,
    };
    let events = match try_deaths(program, operation, effort, &mut line) {
        Ok(events) => events,
        Err(why) => {
            line.failures.push(why);
            Vec::new()
        }
    };
    try_live(program, operation, effort, &events, &mut line);
    line.took = begun.elapsed();
    line
}

/// Runs `work` for each job on several threads, and collects what went wrong.
fn in_parallel<J: Send>(
    jobs: mpsc::Receiver<J>,
    work: impl Fn(J) -> Verdict + Sync,
    between: impl FnOnce(),
) -> Vec<String> {
    let jobs = Mutex::new(jobs);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(job)));
                    let why = match verdict {
                        Ok(Ok(())) => continue,
                        Ok(Err(why)) => why,
                        Err(panic) => format!("a panic: {:?}", panic.downcast_ref::<String>()),
                    };
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(why);
                }
            });
        }
        between();
    });
    failures.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Steps through the operation once. Returns where something changed or the kernel was called; first of all, the beginning.
fn try_deaths(
    program: &Path,
    operation: &'static Operation,
    effort: Effort,
    line: &mut Line,
) -> Verdict<Vec<Event>> {
    let (mut stage, _) = Stage::set(program, operation, false)?;
    let (send, receive) = mpsc::channel::<(Death, bool)>();
    let mut events = Vec::new();
    let names = Mutex::new(Vec::new());
    let failures = in_parallel(
        receive,
        |(death, is_swept)| {
            let point = death.point;
            let at = death.at;
            die_on_a_copy(operation, death, is_swept).map_err(|why| {
                names.lock().unwrap_or_else(PoisonError::into_inner).push(at);
                let how = if is_swept { "" } else { ", no supervisor" };
                format!("dead after {}{how}, at {at:#x}: {why}", point.step)
            })
        },
        || {
            let mut watch = Watch::new(&stage.place.dir, stage.child.told());
            let mut point = Point { step: 0, calls: 0, since_call: 0 };
            let mut before = point;
            let (mut is_new, mut differs) = (true, true);
            loop {
                if is_new {
                    events.push(Event { before, after: point });
                }
                // Else a copy would be the one that was made last.
                if differs {
                    line.states += 1;
                    let is_tried = !operation.control
                        || line.states <= effort.control_states
                        || line.states.is_multiple_of(8);
                    for is_swept in [true, false] {
                        if is_tried && (is_swept || operation.scene.exists) {
                            let death = Death {
                                point,
                                at: stage.child.at(),
                                snapshot: watch.snapshot(),
                                facts: stage.facts(),
                                setup: stage.setup,
                            };
                            let _ = send.send((death, is_swept));
                            line.copies += 1;
                        }
                    }
                }
                assert!(point.step < STEPS_MAX, "{} does not end", operation.name);
                let step = stage.step();
                before = point;
                match step {
                    Step::Ended => break,
                    Step::Asleep(_) => {}
                    Step::Ran => {
                        point = Point { step: point.step + 1, since_call: point.since_call + 1, ..point }
                    }
                    Step::Called(_) => {
                        point = Point { step: point.step + 1, calls: point.calls + 1, since_call: 0 };
                    }
                }
                differs = step != Step::Ran && watch.scan();
                differs |= watch.look();
                is_new = differs || matches!(step, Step::Called(_));
            }
            drop(send);
            line.instructions = point.step;
            line.calls = point.calls;
        },
    );
    let mut names = names.into_inner().unwrap_or_else(PoisonError::into_inner);
    names.sort_unstable();
    names.dedup();
    line.failures.extend(failures);
    line.failures
        .extend(names.into_iter().take(20).map(|at| format!("{at:#x} is {}", stage.child.name_of(at))));
    Ok(events)
}

/// The bus as it was when the child stood at a point, everybody on it dead, and survivors who come to it. With `is_swept` they bring
/// a supervisor; without, they were there before, and have nobody but themselves.
fn die_on_a_copy(operation: &Operation, death: Death, is_swept: bool) -> Verdict {
    let place = Place::new();
    let wrong = |error: std::io::Error| format!("the copy: {error}");
    death.snapshot.lay_out(&place.dir).map_err(wrong)?;
    let mut survivors;
    if is_swept {
        decide(&place.bus(), Fate::Dead).map_err(wrong)?;
        survivors = Survivors::attach(&place.dir, operation.scene, true)?;
    } else {
        decide(&place.bus(), Fate::Live).map_err(wrong)?;
        let serving = Serving::start(&place.dir)?;
        survivors = Survivors::attach(&place.dir, operation.scene, false)?;
        if operation.scene.producers > 1 {
            survivors.take_part(operation.part)?;
        }
        drop(serving);
        survivors.stay_alone();
        decide(&place.bus(), Fate::Dead).map_err(wrong)?;
    }
    survivors.settle(&death.facts, death.setup)?;
    survivors.ensure_in_order(&death.facts)?;
    survivors.inspect(is_swept)?;
    survivors.leave(is_swept, is_swept)
}

/// Which of `points`, at most so many, evenly spread.
fn spread<T: Copy>(points: &[T], most: usize) -> Vec<T> {
    let count = points.len().min(most);
    (0..count).map(|index| points[index * points.len() / count]).collect()
}

/// A child for each of some points, killed there, or stopped there and let go on.
fn try_live(
    program: &Path,
    operation: &'static Operation,
    effort: Effort,
    events: &[Event],
    line: &mut Line,
) {
    let (send, receive) = mpsc::channel();
    for event in spread(events, effort.kills) {
        let _ = send.send((event.after, true));
        line.kills += 1;
    }
    for point in stops(operation, effort, events, line.instructions) {
        let _ = send.send((point, false));
        line.stops += 1;
    }
    drop(send);
    let work = |(point, kill): (Point, bool)| {
        let how = if kill { "killed" } else { "stopped" };
        live(program, operation, point, kill).map_err(|why| format!("{how} after {}: {why}", point.step))
    };
    line.failures.extend(in_parallel(receive, work, || {}));
}

/// Where a child is stopped: before and after each change and each call, since what it has loaded differs, and here and there
/// between.
fn stops(operation: &Operation, effort: Effort, events: &[Event], instructions: usize) -> Vec<Point> {
    let mut stops: Vec<Point> = events.iter().flat_map(|event| [event.before, event.after]).collect();
    stops.dedup();
    if operation.control {
        stops = spread(&stops, effort.control_stops);
        let steps: usize = stops.iter().map(|point| point.since_call).sum();
        if steps > effort.control_steps {
            stops = spread(&stops, stops.len() * effort.control_steps / steps);
        }
    } else if let Some(first) = events.first() {
        let count = effort.stops.min(instructions);
        for step in (0..count).map(|index| index * instructions / count) {
            // Counted from the last call before it.
            let known = events.iter().map(|event| event.after);
            let last = known.rev().find(|point| point.step <= step).unwrap_or(first.after);
            stops.push(Point { step, since_call: last.since_call + step - last.step, ..last });
        }
    }
    stops.sort_unstable();
    stops.dedup_by_key(|point| point.step);
    stops
}

fn live(program: &Path, operation: &'static Operation, point: Point, kill: bool) -> Verdict {
    let (mut stage, survivors) = Stage::set(program, operation, true)?;
    if operation.wake == Wake::Publish {
        // Survivors publish before the child can fall asleep for it.
        stage.setup = (stage.setup.0, stage.setup.0 + 1);
    }
    stage.go_to(point);
    let facts = stage.facts();
    if kill {
        stage.child.kill();
        let is_recovered = stage.serving.is_none() || operation.part == Part::Supervisor;
        if is_recovered {
            stage.serving = Some(Serving::start(&stage.place.dir)?);
        }
        if let Some(asker) = stage.asker.take() {
            // It may still be asking; what it made for that is its own to remove.
            let _ = asker.join();
        }
        let mut survivors = match survivors {
            Some(survivors) => survivors,
            None => Survivors::attach(&stage.place.dir, operation.scene, false)?,
        };
        // Every other time survivors go on before the supervisor has noticed; then what the dead one left is kept for a
        // revolution longer.
        let is_buried = point.step.is_multiple_of(2);
        if is_buried {
            survivors.wait_until_buried()?;
            // Their numbers are gone before what they held is.
            stage.serving.iter().for_each(Serving::wait_until_idle);
        }
        survivors.settle(&facts, stage.setup)?;
        survivors.ensure_in_order(&facts)?;
        survivors.inspect(true)?;
        return survivors.leave(is_buried, is_recovered);
    }
    let Some(mut survivors) = survivors else {
        return go_on_alone(stage);
    };
    survivors.work_beside(&facts)?;
    if operation.part != Part::Member && operation.dead.is_none() {
        survivors.ensure_unhindered()?;
    }
    if operation.scene.is_fenced() {
        let told = stage.child.told();
        survivors.hold_beside(told, &mut || go_on(&mut stage))?;
    } else {
        go_on(&mut stage)?;
    }
    let begun = Instant::now();
    while !stage.child.has_ended() {
        if !survivors.work_along(&stage.facts())? {
            stage.child.told().stop();
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("the child has not come to its end: {:?}", stage.facts()));
        }
        std::thread::yield_now();
    }
    stage.child.join()?;
    if stage.serving.is_none() {
        stage.serving = Some(Serving::start(&stage.place.dir)?);
    }
    survivors.settle_with_child_gone(&stage.facts(), stage.setup)?;
    survivors.inspect(true)?;
    survivors.leave(true, false)
}

/// Lets a child stand still for `pause` after some system calls of an operation, at most `count` of them evenly spread, while nobody else
/// does anything. What goes wrong after that: time that passes may not be taken for something that happened.
///
/// # Panics
/// Where the child does not do what it should.
pub fn pause(program: &Path, operation: &'static Operation, count: usize, pause: Duration) -> Vec<String> {
    let points = match calls(program, operation) {
        Ok(points) => points,
        Err(why) => return vec![why],
    };
    let (send, receive) = mpsc::channel();
    for point in spread(&points, count) {
        let _ = send.send(point);
    }
    drop(send);
    let work = |point: Point| {
        let (mut stage, _) = Stage::set(program, operation, false)?;
        stage.go_to(point);
        std::thread::sleep(pause);
        go_on(&mut stage)?;
        stage.child.told().stop();
        stage.child.join()?;
        let verdict = stage.facts().failed.map_or(Ok(()), Err);
        verdict.map_err(|why| format!("stood still after {}: {why}", point.step))
    };
    in_parallel(receive, work, || {})
}

/// Where each system call of an operation has returned.
fn calls(program: &Path, operation: &'static Operation) -> Verdict<Vec<Point>> {
    let (mut stage, _) = Stage::set(program, operation, false)?;
    let mut point = Point { step: 0, calls: 0, since_call: 0 };
    let mut points = Vec::new();
    loop {
        match stage.step() {
            Step::Ended => return Ok(points),
            Step::Asleep(_) => {}
            Step::Ran => point.step += 1,
            Step::Called(_) => {
                (point.step, point.calls) = (point.step + 1, point.calls + 1);
                points.push(point);
            }
        }
    }
}

/// Lets the child finish its operation and what comes after.
fn go_on(stage: &mut Stage) -> Verdict {
    stage.child.resume();
    if stage.operation.wake == Wake::Requests {
        // It serves until somebody takes the role from it.
        stage.serving = Some(Serving::start(&stage.place.dir)?);
    }
    stage.child.let_go();
    Ok(())
}

/// There is no bus yet on which survivors could be: they come afterwards.
fn go_on_alone(mut stage: Stage) -> Verdict {
    go_on(&mut stage)?;
    stage.child.join()?;
    let mut survivors = Survivors::attach(&stage.place.dir, stage.operation.scene, true)?;
    survivors.settle_with_child_gone(&stage.facts(), stage.setup)?;
    survivors.inspect(true)?;
    survivors.leave(true, false)
}

/// What the columns of a [`Line`] are.
pub fn heading() -> String {
    format!(
        "{:<42} {:>12} {:>6} {:>6} {:>7} {:>6} {:>6} {:>9} {:>7}",
        "operation", "instructions", "calls", "states", "copies", "kills", "stops", "failures", "seconds"
    )
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:<42} {:>12} {:>6} {:>6} {:>7} {:>6} {:>6} {:>9} {:>7.1}",
            self.name,
            self.instructions,
            self.calls,
            self.states,
            self.copies,
            self.kills,
            self.stops,
            self.failures.len(),
            self.took.as_secs_f64()
        )
    }
}
