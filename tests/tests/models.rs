//! Runs the protocol models: the protocol of the bus must hold in every interleaving, and every variant that
//! is known to be broken must be caught. Run with `--nocapture` to see the sizes; a test that fails prints
//! the shortest run that breaks the model.

use std::time::Instant;

use tests::model::explorer::{Model, Verdict, explore};
use tests::model::publish;

/// No model may have more states than this: the tests are to stay quick and small.
const STATES_MAX: usize = 4_000_000;

/// The model has no bad state.
#[track_caller]
fn holds<M: Model>(name: &str, model: &M) {
    let started = Instant::now();
    match explore(model, STATES_MAX) {
        Verdict::Holds { states, depth } => {
            println!("{name}: holds, {states} states, depth {depth}, {:.1?}", started.elapsed());
        }
        Verdict::Broken(counterexample) => panic!("{name} is broken: {counterexample}"),
        Verdict::Incomplete { limit } => panic!("{name}: more than {limit} states, nothing is proven"),
    }
}

/// The model has a bad state.
#[track_caller]
fn breaks<M: Model>(name: &str, model: &M) {
    let started = Instant::now();
    match explore(model, STATES_MAX) {
        Verdict::Holds { states, .. } => panic!("{name} should break and holds in all {states} states"),
        Verdict::Broken(counterexample) => println!("{name}: breaks, {:.1?}, {counterexample}", started.elapsed()),
        Verdict::Incomplete { limit } => panic!("{name}: nothing found within {limit} states"),
    }
}

mod publication {
    use super::publish::{Publish, Variant};
    use super::*;

    const BASE: Publish = Publish {
        variant: Variant::Correct,
        quota: [2, 2],
        joined: true,
        joins: 0,
        historic: false,
        unlink: false,
        kills: 3,
    };

    #[test]
    fn with_a_group() {
        holds("publish, one group", &BASE);
        holds("publish, one group, uneven", &Publish { quota: [4, 1], ..BASE });
    }

    #[test]
    fn with_arena_removal() {
        holds("publish, one group, arenas removed", &Publish { unlink: true, ..BASE });
    }

    #[test]
    fn with_join_and_leave() {
        holds("publish, leave and join again", &Publish { joins: 1, kills: 1, ..BASE });
    }

    #[test]
    fn without_groups_and_a_historic_join() {
        holds("publish, historic join", &Publish { joined: false, joins: 1, historic: true, ..BASE });
    }

    #[test]
    fn breaks_without_the_predecessor_check() {
        breaks("publish, no predecessor check", &Publish { variant: Variant::NoPredecessorCheck, ..BASE });
    }

    #[test]
    fn breaks_when_a_cell_is_reused_before_its_release() {
        breaks("publish, reuse before release", &Publish { variant: Variant::ReuseBeforeRelease, ..BASE });
    }

    #[test]
    fn breaks_when_an_arena_goes_with_its_producer() {
        breaks("publish, unlink at death", &Publish { variant: Variant::UnlinkAtDeath, unlink: true, ..BASE });
    }
}
