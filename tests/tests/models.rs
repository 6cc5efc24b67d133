//! Runs the protocol models: the protocol of the bus must hold in every interleaving, and every variant that
//! is known to be broken must be caught. Run with `--nocapture` to see the sizes; a test that fails prints
//! the shortest run that breaks the model.

use std::time::Instant;

use tests::model::explorer::{Model, Verdict, explore};
use tests::model::{
    aside_due, aside_one, doorbell, gate, keyed, let_go, lossy, mailbox, owner, publish, receipts, replay,
    reply_topic, role, single_producer, takeover, told, two_phase,
};

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
        Verdict::Broken(counterexample) => {
            println!("{name}: breaks, {:.1?}, {counterexample}", started.elapsed())
        }
        Verdict::Incomplete { limit } => panic!("{name}: nothing found within {limit} states"),
    }
}

mod search {
    use super::*;
    use tests::model::explorer::{Step, Successors};

    /// Counts up to `end` in steps of one or two, and from `trap` on only in steps of two.
    struct Stairs {
        end: u8,
        trap: u8,
        forbidden: u8,
    }

    impl Model for Stairs {
        type State = u8;

        fn initial(&self) -> u8 {
            0
        }

        fn successors(&self, &at: &u8, out: &mut Successors<u8>) {
            if at < self.trap && at < self.end {
                out.push((Step::with("A", "climbs one from", at), at + 1));
            }
            if at + 2 <= self.end {
                out.push((Step::with("A", "climbs two from", at), at + 2));
            }
            out.push((Step::with("A", "rests at", at), at));
            out.push((Step::kill("A"), self.end));
        }

        fn violation(&self, &at: &u8) -> Option<String> {
            (at == self.forbidden).then(|| format!("stands on {at}"))
        }

        fn goal(&self, &at: &u8) -> bool {
            at == self.end
        }
    }

    const STAIRS: Stairs = Stairs { end: 10, trap: 10, forbidden: 11 };

    #[test]
    fn visits_every_state() {
        assert!(matches!(explore(&STAIRS, 100), Verdict::Holds { states: 11, depth: 5 }));
    }

    #[test]
    fn finds_a_shortest_run() {
        let Verdict::Broken(found) = explore(&Stairs { forbidden: 7, ..STAIRS }, 100) else {
            panic!("7 is hidden")
        };
        assert_eq!((found.steps.len(), found.reason.as_str()), (4, "stands on 7"));
    }

    #[test]
    fn does_not_count_a_fault_as_a_way_out() {
        // From 9 on nothing but a kill leads to the end.
        let Verdict::Broken(found) = explore(&Stairs { trap: 4, ..STAIRS }, 100) else {
            panic!("the trap is hidden")
        };
        assert_eq!(found.steps.len(), 3);
        assert!(found.reason.starts_with("stuck"));
    }

    #[test]
    fn does_not_stop_half_way_in_silence() {
        assert!(matches!(explore(&STAIRS, 10), Verdict::Incomplete { limit: 10 }));
    }
}

mod publication {
    use super::publish::{Publish, Variant};
    use super::*;

    const BASE: Publish = Publish {
        variant: Variant::Correct,
        quota: [3, 2],
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
        let join = Publish { joined: false, joins: 1, historic: true, ..BASE };
        holds("publish, historic join", &join);
        holds("publish, historic join, arenas removed", &Publish { quota: [2, 2], unlink: true, ..join });
    }

    #[test]
    fn with_a_word_for_confirmed_gates() {
        let shared = Publish { variant: Variant::ReleasedWord, ..BASE };
        holds("publish, released word, one group", &Publish { unlink: true, ..shared });
        holds("publish, released word, join", &Publish { joined: false, joins: 1, historic: true, ..shared });
    }

    #[test]
    fn breaks_when_the_gate_word_releases_cells() {
        let join = Publish { joined: false, joins: 1, historic: true, ..BASE };
        breaks("publish, gate word", &Publish { variant: Variant::GateWord, ..join });
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
        breaks(
            "publish, unlink at death",
            &Publish { variant: Variant::UnlinkAtDeath, unlink: true, ..BASE },
        );
    }
}

mod let_go_groups {
    use super::let_go::{LetGo, Variant};
    use super::*;

    const TWICE: LetGo = LetGo { variant: Variant::Correct, messages: 5, evictions: 2, kills: 1 };

    #[test]
    fn come_back_and_tell_what_they_missed() {
        holds("let go, twice", &TWICE);
        holds("let go, two deaths", &LetGo { evictions: 1, kills: 2, ..TWICE });
    }

    #[test]
    fn break_when_the_way_back_is_shorter() {
        for variant in
            [Variant::DetachedAtOnce, Variant::FreedAfterDeath, Variant::CursorBeforeTold, Variant::NotSaved]
        {
            breaks(&format!("let go, {variant:?}"), &LetGo { variant, ..TWICE });
        }
    }
}

mod reply_topics {
    use super::reply_topic::{ReplyTopic, Variant};
    use super::*;

    const STOPPED: ReplyTopic = ReplyTopic { variant: Variant::Correct, holder_dies: false };

    #[test]
    fn go_with_their_process_and_come_to_nobody_else() {
        holds("reply topic, a stopped holder", &STOPPED);
        holds("reply topic, a dead holder", &ReplyTopic { holder_dies: true, ..STOPPED });
    }

    #[test]
    fn break_when_a_step_is_left_out() {
        for variant in [
            Variant::NameWithoutIncarnation,
            Variant::NotLooked,
            Variant::FreedFirst,
            Variant::NotMoved,
            Variant::NoBeat,
        ] {
            breaks(&format!("reply topic, {variant:?}"), &ReplyTopic { variant, ..STOPPED });
        }
    }
}

mod mailboxes {
    use super::mailbox::{Mailbox, Variant};
    use super::*;

    const RACE: Mailbox = Mailbox { variant: Variant::Correct, kills: 2 };

    #[test]
    fn keep_what_was_accepted_whoever_makes_them() {
        holds("mailbox", &RACE);
    }

    #[test]
    fn break_when_they_are_made_in_two_steps_or_twice() {
        for variant in [Variant::GroupAfterwards, Variant::Replaced] {
            breaks(&format!("mailbox, {variant:?}"), &Mailbox { variant, ..RACE });
        }
    }
}

mod keyed_groups {
    use super::keyed::{Keyed, Variant};
    use super::*;

    const BASE: Keyed = Keyed {
        variant: Variant::Correct,
        messages: 2,
        members: 2,
        batch: 1,
        kills: 1,
        fences: 0,
        moves: 1,
        retries: 1,
        drops: 1,
    };
    const FENCED: Keyed = Keyed { fences: 2, batch: 2, moves: 1, retries: 0, drops: 0, ..BASE };

    #[test]
    fn keep_the_order_of_a_key_and_never_two_members_at_it() {
        holds("keyed, three members", &Keyed { members: 3, messages: 3, batch: 2, ..BASE });
        holds("keyed, three members, deaths and moves", &Keyed { members: 3, kills: 2, moves: 2, ..BASE });
    }

    #[test]
    fn fence_members_that_are_silent() {
        holds("keyed, fenced", &Keyed { messages: 3, ..FENCED });
        holds("keyed, fenced, retries", &Keyed { retries: 1, drops: 1, ..FENCED });
        holds("keyed, fenced, three members", &Keyed { members: 3, ..FENCED });
    }

    #[test]
    fn break_when_a_partition_changes_hands_otherwise() {
        for (variant, model) in [
            (Variant::NoLook, FENCED),
            (Variant::LookBefore, FENCED),
            (Variant::TakenAlive, BASE),
            (Variant::PassedOver, FENCED),
            (Variant::BlindTake, FENCED),
            (Variant::LookLast, FENCED),
            (Variant::FirstToLast, FENCED),
            (Variant::GivenUpInHand, BASE),
            (Variant::TakenInHand, FENCED),
            (Variant::RetryPasses, BASE),
            (Variant::StoreForgotten, BASE),
        ] {
            breaks(&format!("keyed, {variant:?}"), &Keyed { variant, ..model });
        }
    }
}

mod gates {
    use super::gate::{Gate, Membership, Variant};
    use super::*;

    const BASE: Membership =
        Membership { entry: 0, joined: true, joins: 0, historic: false, inherits: false };
    const LATEST: Membership = Membership { entry: 1, joined: false, joins: 2, ..BASE };
    const HISTORIC: Membership = Membership { historic: true, ..LATEST };
    const JOIN: Gate = Gate {
        variant: Variant::Correct,
        producers: 2,
        messages: 4,
        members: [Some(BASE), Some(LATEST)],
        kills: 1,
        evict: false,
    };

    #[test]
    fn join_at_the_end_beside_a_group() {
        let once = Membership { joins: 1, ..LATEST };
        holds("gate, latest, base group, death", &Gate { members: [Some(BASE), Some(once)], ..JOIN });
        holds("gate, latest, base group, rejoin", &Gate { messages: 3, ..JOIN });
    }

    #[test]
    fn join_at_the_oldest_beside_a_group() {
        holds(
            "gate, historic, base group, rejoin",
            &Gate { messages: 3, members: [Some(BASE), Some(HISTORIC)], ..JOIN },
        );
    }

    #[test]
    fn join_an_empty_lane() {
        holds("gate, latest, no base group", &Gate { members: [None, Some(LATEST)], ..JOIN });
        holds("gate, historic, no base group", &Gate { members: [None, Some(HISTORIC)], ..JOIN });
    }

    #[test]
    fn two_join_at_once() {
        let first = Membership { joins: 1, ..LATEST };
        let second = Membership { entry: 0, joins: 1, ..HISTORIC };
        holds("gate, two join", &Gate { messages: 3, members: [Some(first), Some(second)], ..JOIN });
    }

    #[test]
    fn eviction_of_a_live_member() {
        let next = Membership { entry: 0, joins: 1, ..HISTORIC };
        let evict = Gate { producers: 1, members: [Some(BASE), Some(next)], kills: 2, evict: true, ..JOIN };
        holds("gate, eviction", &evict);
        breaks("gate, evicted entry free", &Gate { variant: Variant::EvictedEntryFree, ..evict });
    }

    #[test]
    fn a_group_is_inherited() {
        let first = Membership { entry: 0, joins: 1, ..HISTORIC };
        let heir = Membership { entry: 0, joins: 0, inherits: true, ..HISTORIC };
        let inherit = Gate { producers: 1, members: [Some(first), Some(heir)], ..JOIN };
        holds("gate, inherited group", &inherit);
        let shared = Gate { variant: Variant::TentativeCursor, producers: 2, ..inherit };
        holds("gate, tentative cursor", &shared);
        breaks("gate, inherit the cursor", &Gate { variant: Variant::InheritCursor, ..inherit });
        breaks("gate, inherit the gate", &Gate { variant: Variant::InheritGate, ..inherit });
    }

    #[test]
    fn breaks_without_a_generation() {
        breaks("gate, no generation", &Gate { variant: Variant::NoGeneration, ..JOIN });
    }

    #[test]
    fn breaks_without_the_second_read() {
        let historic = Gate { members: [None, Some(HISTORIC)], ..JOIN };
        breaks("gate, no second read, historic", &Gate { variant: Variant::NoSecondRead, ..historic });
        breaks("gate, no second read, latest", &Gate { variant: Variant::NoSecondRead, ..JOIN });
    }

    #[test]
    fn breaks_when_the_tail_is_read_after_the_check() {
        let empty = Gate { members: [None, Some(LATEST)], ..JOIN };
        breaks("gate, late tail", &Gate { variant: Variant::TailAfterCheck, ..empty });
    }
}

mod claim_then_write {
    use super::two_phase::{TwoPhase, Variant};
    use super::*;

    #[test]
    fn breaks_whatever_readers_do() {
        let quota = [2, 2];
        breaks("two-phase, waiting", &TwoPhase { variant: Variant::Waiting, quota });
        breaks("two-phase, tombstone", &TwoPhase { variant: Variant::Tombstone, quota });
        breaks("two-phase, tombstone, no group", &TwoPhase { variant: Variant::TombstoneLossy, quota });
    }
}

mod one_producer {
    use super::single_producer::{SingleProducer, Variant};
    use super::*;

    const BOTH: SingleProducer =
        SingleProducer { variant: Variant::Correct, messages: 5, reliable: true, lossy: true };

    #[test]
    fn with_readers_and_takeovers() {
        holds("one producer, both readers", &BOTH);
        holds("one producer, lossy", &SingleProducer { reliable: false, ..BOTH });
        let repaired = SingleProducer { variant: Variant::TailRepaired, ..BOTH };
        holds("one producer, tail repaired", &repaired);
    }

    #[test]
    fn breaks_without_invalidation() {
        let lossy = SingleProducer { reliable: false, ..BOTH };
        breaks("one producer, no WRITING", &SingleProducer { variant: Variant::NoInvalidation, ..lossy });
        breaks(
            "one producer, no WRITING, group",
            &SingleProducer { variant: Variant::NoInvalidation, ..BOTH },
        );
    }

    #[test]
    fn breaks_when_the_takeover_is_careless() {
        let reliable = SingleProducer { lossy: false, ..BOTH };
        for variant in [Variant::TakeoverWithoutProof, Variant::TakeoverAtTail, Variant::TailNotRepaired] {
            breaks(&format!("one producer, {variant:?}"), &SingleProducer { variant, ..reliable });
            breaks(&format!("one producer, {variant:?}, lossy"), &SingleProducer { variant, ..BOTH });
        }
    }
}

mod lossy_cells {
    use super::lossy::{LossyCells, Variant};
    use super::*;

    #[test]
    fn with_a_tag_or_a_limit_of_sequences() {
        holds("lossy cells, tag", &LossyCells { variant: Variant::Correct, messages: 8 });
        holds("lossy cells, sequences", &LossyCells { variant: Variant::SequenceLimit, messages: 8 });
    }

    #[test]
    fn breaks_with_any_other_check() {
        for variant in [Variant::PositionFromHeader, Variant::WordOnly, Variant::LateLimit] {
            breaks(&format!("lossy cells, {variant:?}"), &LossyCells { variant, messages: 8 });
        }
    }
}

mod doorbells {
    use super::doorbell::{Doorbell, Mode, Variant};
    use super::*;

    const ALIVE: Doorbell = Doorbell {
        mode: Mode::Fence,
        variant: Variant::Correct,
        messages: [2, 1],
        sleepers: 2,
        kills: 0,
        late: false,
    };
    const DEATH: Doorbell = Doorbell { messages: [1, 1], kills: 2, ..ALIVE };

    #[test]
    fn with_fences() {
        holds("doorbell, fences", &ALIVE);
        holds("doorbell, fences, deaths", &DEATH);
    }

    #[test]
    fn with_membarrier() {
        holds("doorbell, membarrier", &Doorbell { mode: Mode::Membarrier, ..ALIVE });
        holds("doorbell, membarrier, deaths", &Doorbell { mode: Mode::Membarrier, ..DEATH });
    }

    #[test]
    fn with_membarrier_where_a_process_is_registered_late() {
        let late = Doorbell { mode: Mode::Membarrier, late: true, messages: [1, 2], sleepers: 1, ..ALIVE };
        holds("doorbell, registered late", &late);
        holds("doorbell, registered late, two sleepers", &Doorbell { messages: [0, 2], sleepers: 2, ..late });
        holds("doorbell, registered late, deaths", &Doorbell { messages: [1, 1], kills: 2, ..late });
        breaks("doorbell, told too early", &Doorbell { variant: Variant::EarlyFlag, ..late });
    }

    #[test]
    fn breaks_when_the_protocols_are_mixed() {
        let fences = Doorbell { sleepers: 1, ..ALIVE };
        let membarrier = Doorbell { mode: Mode::Membarrier, ..fences };
        breaks("doorbell, no fence", &Doorbell { variant: Variant::NoFence, ..fences });
        breaks(
            "doorbell, unregistered publisher",
            &Doorbell { variant: Variant::Unregistered, ..membarrier },
        );
        breaks("doorbell, no membarrier", &Doorbell { variant: Variant::NoMembarrier, ..membarrier });
    }

    #[test]
    fn breaks_when_the_doorbell_is_disarmed_carelessly() {
        breaks("doorbell, blind clear", &Doorbell { variant: Variant::BlindClear, ..ALIVE });
        breaks("doorbell, swap then wake", &Doorbell { variant: Variant::SwapThenWake, ..DEATH });
    }

    #[test]
    fn breaks_when_arming_leaves_no_trace() {
        breaks("doorbell, arm without arrival", &Doorbell { variant: Variant::ArmWithoutArrival, ..ALIVE });
    }
}

mod owners {
    use super::owner::{OwnerWords, Variant};
    use super::*;

    const TWO: OwnerWords = OwnerWords {
        variant: Variant::Correct,
        messages: 2,
        members: 2,
        repairers: 1,
        entries: 2,
        attempts_max: 2,
        rejects: true,
        kills: 1,
        reuses: 0,
        expiries: 0,
        unproven: false,
    };
    /// One message that kills whoever works on it.
    const POISON: OwnerWords = OwnerWords { messages: 1, members: 4, kills: 3, entries: 1, ..TWO };
    const MISTAKEN: OwnerWords =
        OwnerWords { members: 3, attempts_max: 1, rejects: false, kills: 0, unproven: true, ..TWO };

    #[test]
    fn with_two_messages() {
        holds("owners, two messages", &TWO);
        holds("owners, one entry for two", &OwnerWords { entries: 1, ..TWO });
    }

    #[test]
    fn with_many_deaths() {
        holds("owners, poison", &POISON);
        holds("owners, two repairers", &OwnerWords { repairers: 2, kills: 2, entries: 1, ..TWO });
    }

    #[test]
    fn with_reused_indices() {
        let reuse = OwnerWords { messages: 1, repairers: 2, kills: 2, reuses: 2, ..TWO };
        holds("owners, reused index", &reuse);
    }

    #[test]
    fn with_a_member_that_was_wrongly_taken_for_dead() {
        holds("owners, mistaken", &MISTAKEN);
        holds("owners, mistaken, rejects", &OwnerWords { messages: 1, rejects: true, ..MISTAKEN });
    }

    #[test]
    fn with_claims_taken_back_from_slow_members() {
        let slow = OwnerWords { kills: 0, expiries: 2, entries: 1, ..TWO };
        holds("owners, slow members", &slow);
        holds("owners, slow and dead members", &OwnerWords { messages: 1, kills: 1, ..slow });
    }

    #[test]
    fn breaks_when_a_failure_is_written_into_a_claimed_entry() {
        let slow = OwnerWords { kills: 0, expiries: 1, entries: 1, ..TWO };
        breaks("owners, amend in place", &OwnerWords { variant: Variant::AmendInPlace, ..slow });
    }

    #[test]
    fn breaks_when_repair_does_not_compare() {
        let two = OwnerWords { messages: 1, repairers: 2, entries: 1, ..TWO };
        breaks("owners, blind release", &OwnerWords { variant: Variant::BlindRelease, ..two });
    }

    #[test]
    fn breaks_when_the_commit_comes_before_the_entry_is_staged() {
        breaks("owners, commit early", &OwnerWords { variant: Variant::CommitEarly, ..TWO });
    }

    #[test]
    fn breaks_without_a_walk_on_repair() {
        breaks("owners, no walk", &OwnerWords { variant: Variant::NoWalkOnRepair, ..TWO });
    }

    #[test]
    fn breaks_when_parking_goes_straight_to_done() {
        breaks("owners, park to done", &OwnerWords { variant: Variant::ParkToDone, ..TWO });
    }

    #[test]
    fn breaks_when_the_attempt_is_counted_after_the_hand_out() {
        breaks("owners, attempt after", &OwnerWords { variant: Variant::AttemptAfter, ..POISON });
    }

    #[test]
    fn breaks_without_a_nonce() {
        breaks("owners, no nonce", &OwnerWords { variant: Variant::NoNonce, ..MISTAKEN });
    }

    #[test]
    fn breaks_when_an_index_is_reused_before_repair() {
        let reuse = OwnerWords { messages: 1, kills: 2, reuses: 2, ..TWO };
        breaks("owners, early reuse", &OwnerWords { variant: Variant::ReuseBeforeRepair, ..reuse });
    }

    #[test]
    fn breaks_when_a_full_store_blocks_a_member() {
        breaks("owners, wait when full", &OwnerWords { variant: Variant::WaitWhenFull, entries: 1, ..TWO });
    }

    #[test]
    fn breaks_when_a_parked_word_names_no_incarnation() {
        let two = OwnerWords { messages: 1, repairers: 2, entries: 1, ..TWO };
        breaks("owners, no incarnation, lost", &OwnerWords { variant: Variant::NoIncarnation, ..two });
        let one = OwnerWords { entries: 1, ..TWO };
        breaks("owners, no incarnation, doubled", &OwnerWords { variant: Variant::NoIncarnation, ..one });
    }
}

mod one_member {
    use super::takeover::{Takeover, Variant};
    use super::*;

    const SINGLE: Takeover =
        Takeover { variant: Variant::Correct, batch: 1, leaves: false, rejects: false, bookkeeping: true };
    const BATCH: Takeover = Takeover { batch: 2, ..SINGLE };

    #[test]
    fn with_deaths_and_batches() {
        holds("takeover, one at a time", &SINGLE);
        holds("takeover, batches", &BATCH);
    }

    #[test]
    fn with_leaves_and_rejects() {
        holds("takeover, leaves", &Takeover { leaves: true, ..SINGLE });
        holds("takeover, rejects", &Takeover { rejects: true, ..BATCH });
    }

    #[test]
    fn breaks_when_the_hand_out_comes_first() {
        let first = Takeover { variant: Variant::HandOutFirst, ..SINGLE };
        breaks("takeover, hand out first, mark", &first);
        breaks("takeover, hand out first, further life", &Takeover { bookkeeping: false, ..first });
    }

    #[test]
    fn breaks_when_repair_counts() {
        breaks("takeover, count by repair", &Takeover { variant: Variant::CountByRepair, ..SINGLE });
        let last = Takeover { variant: Variant::BlameLast, bookkeeping: false, ..BATCH };
        breaks("takeover, blame the last", &last);
    }

    #[test]
    fn breaks_when_batches_are_redelivered_at_once() {
        breaks("takeover, batch at once", &Takeover { variant: Variant::BatchAtOnce, ..BATCH });
        breaks("takeover, mark to trial", &Takeover { variant: Variant::MarkToTrial, ..BATCH });
    }

    #[test]
    fn breaks_when_the_entry_is_settled_later() {
        let rejects = Takeover { rejects: true, ..SINGLE };
        breaks("takeover, settle later", &Takeover { variant: Variant::SettleLater, ..rejects });
    }

    #[test]
    fn breaks_without_proof_of_death() {
        let unproven = Takeover { variant: Variant::NoProof, ..SINGLE };
        breaks("takeover, no proof, two members", &unproven);
        breaks("takeover, no proof, low_water", &Takeover { bookkeeping: false, ..unproven });
    }

    #[test]
    fn breaks_when_leaves_count() {
        let leaves = Takeover { leaves: true, ..SINGLE };
        breaks("takeover, leaves count", &Takeover { variant: Variant::LeaveCounted, ..leaves });
    }
}

mod aside_of_one {
    use super::aside_one::{AsideOne, Variant};
    use super::*;

    const ONE: AsideOne =
        AsideOne { variant: Variant::Correct, batch: 1, drops: true, members: 2, repairers: 1, entries: 2 };
    const BATCH: AsideOne = AsideOne { batch: 2, ..ONE };

    #[test]
    fn with_deaths_and_batches() {
        holds("aside of one, one at a time", &ONE);
        holds("aside of one, batches", &BATCH);
        let deaths = AsideOne { members: 3, ..BATCH };
        holds("aside of one, two deaths", &deaths);
        holds("aside of one, two deaths, one entry", &AsideOne { entries: 1, ..deaths });
        holds("aside of one, two repairers", &AsideOne { repairers: 2, ..BATCH });
    }

    #[test]
    fn with_a_full_store() {
        holds("aside of one, one entry for two", &AsideOne { entries: 1, ..BATCH });
    }

    #[test]
    fn breaks_when_the_order_is_another() {
        for variant in [
            Variant::SettleLate,
            Variant::CommitEarly,
            Variant::ValidEarly,
            Variant::AttemptAfter,
            Variant::JoinBatch,
        ] {
            breaks(&format!("aside of one, {variant:?}"), &AsideOne { variant, ..BATCH });
        }
    }
}

mod aside_hint {
    use super::aside_due::{AsideDue, Variant};
    use super::*;

    const TWO: AsideDue = AsideDue { variant: Variant::Correct, times: [1, 2, 0], scanners: 2, again: 1 };

    #[test]
    fn nothing_is_forgotten() {
        holds("aside hint, two entries", &TWO);
        holds("aside hint, three entries", &AsideDue { times: [2, 1, 1], scanners: 1, ..TWO });
    }

    #[test]
    fn breaks_when_the_order_is_another() {
        for variant in [Variant::LowerFirst, Variant::NoRest, Variant::ClearLast] {
            breaks(&format!("aside hint, {variant:?}"), &AsideDue { variant, ..TWO });
        }
    }
}

mod events_told {
    use super::told::{Told, Variant};
    use super::*;

    const TWO: Told = Told { variant: Variant::Correct, holders: 2, incarnations: 2, last_is_thread: false };
    /// Nobody dies, and the entry goes to the thread that publishes.
    const ONE: Told = Told { holders: 1, last_is_thread: true, ..TWO };
    const THREE: Told = Told { holders: 3, ..TWO };

    #[test]
    fn each_is_told_once() {
        holds("told, two holders", &TWO);
        holds("told, three holders", &THREE);
        holds("told, an entry for the thread", &ONE);
        holds("told, two holders and an entry for the thread", &Told { last_is_thread: true, ..TWO });
    }

    #[test]
    fn breaks_when_the_order_is_another() {
        for variant in [Variant::SaidFirst, Variant::NoLook, Variant::EndedLast] {
            breaks(&format!("told, {variant:?}"), &Told { variant, ..TWO });
        }
        breaks("told, OwnIsTold", &Told { variant: Variant::OwnIsTold, ..ONE });
        breaks("told, Blind", &Told { variant: Variant::Blind, ..THREE });
    }
}

mod dead_letters_replayed {
    use super::replay::{Replay, Variant};
    use super::*;

    const TWO: Replay = Replay {
        variant: Variant::Correct,
        replayers: 2,
        purges: true,
        announces: false,
        repairers: 1,
        entries: 1,
        letters: 2,
        spilled: false,
        kills: 1,
        reuses: 1,
        unproven: false,
        looks: false,
    };
    const SPILLED: Replay = Replay { spilled: true, ..TWO };
    /// A replayer that may be thought dead, and asks whether its copy is good.
    const UNPROVEN: Replay = Replay { unproven: true, looks: true, kills: 0, ..SPILLED };

    #[test]
    fn with_deaths() {
        holds("replay, announced", &Replay { announces: true, ..TWO });
        holds("replay, behind the table", &SPILLED);
        holds("replay, two repairers", &Replay { repairers: 2, ..SPILLED });
        holds("replay, two deaths", &Replay { kills: 2, reuses: 2, ..SPILLED });
        holds("replay, two entries", &Replay { entries: 2, letters: 3, reuses: 0, ..TWO });
    }

    #[test]
    fn with_a_replayer_that_was_wrongly_taken_for_dead() {
        holds("replay, thought dead", &Replay { letters: 3, ..UNPROVEN });
        holds("replay, thought dead, in the entry", &Replay { spilled: false, kills: 1, ..UNPROVEN });
        breaks("replay, thought dead, no look after the copy", &Replay { looks: false, ..UNPROVEN });
    }

    #[test]
    fn breaks_when_the_letter_is_in_no_hand() {
        for variant in [Variant::FreedFirst, Variant::NotInHand, Variant::PurgedInHand] {
            breaks(&format!("replay, {variant:?}"), &Replay { variant, ..TWO });
        }
    }

    #[test]
    fn breaks_when_repair_is_careless() {
        for variant in [Variant::RepairFrees, Variant::NotRepaired, Variant::NoProof] {
            breaks(&format!("replay, {variant:?}"), &Replay { variant, ..SPILLED });
        }
    }

    #[test]
    fn breaks_when_less_is_compared() {
        breaks("replay, NoTag", &Replay { variant: Variant::NoTag, ..TWO });
        let variant = Variant::NoIncarnation;
        breaks("replay, NoIncarnation", &Replay { variant, repairers: 2, ..TWO });
        let not_compared = Replay { variant: Variant::NotCompared, spilled: false, ..UNPROVEN };
        breaks("replay, NotCompared", &not_compared);
    }
}

mod supervisor {
    use super::role::{Removal, RemovalVariant, Role, Variant};
    use super::*;

    const BASE: Role = Role { variant: Variant::Correct, holders: 3, faults: 4 };

    #[test]
    fn late_acts_of_a_superseded_holder_change_nothing() {
        holds("role, three holders", &BASE);
        holds("role, two holders", &Role { holders: 2, faults: 6, ..BASE });
    }

    #[test]
    fn every_short_cut_is_caught() {
        for variant in [
            Variant::Unchecked,
            Variant::PlainStores,
            Variant::NoQuarantine,
            Variant::EarlyReuse,
            Variant::RenameOver,
            Variant::RemoveInPlace,
            Variant::CheckedClose,
            Variant::HelperBeats,
        ] {
            breaks(&format!("role, {variant:?}"), &Role { variant, ..BASE });
        }
    }

    #[test]
    fn a_bus_is_removed_by_whoever_comes_and_no_other_instead_of_it() {
        holds("removal", &Removal { variant: RemovalVariant::Correct });
        for variant in
            [RemovalVariant::UniqueName, RemovalVariant::LocksIgnored, RemovalVariant::PlaceUnchecked]
        {
            breaks(&format!("removal, {variant:?}"), &Removal { variant });
        }
    }
}

mod receipts_told {
    use super::*;
    use receipts::{Receipts, Variant};

    fn model(shared: bool, variant: Variant) -> Receipts {
        Receipts { shared, variant }
    }

    #[test]
    fn holds_in_both_kinds_of_group() {
        holds("receipts, one", &model(false, Variant::Protocol));
        holds("receipts, shared", &model(true, Variant::Protocol));
    }

    #[test]
    fn every_other_order_is_caught() {
        for shared in [false, true] {
            for variant in [
                Variant::SettleFirst,
                Variant::StoreBeforeCursor,
                Variant::RecordBeforeStore,
                Variant::FinishedIsHandled,
                Variant::PurgeFirst,
            ] {
                breaks(&format!("receipts, shared {shared}, {variant:?}"), &model(shared, variant));
            }
        }
        breaks("receipts, one, NotCleared", &model(false, Variant::NotCleared));
        for shared in [false, true] {
            breaks("receipts, EntryNotCleared", &model(shared, Variant::EntryNotCleared));
        }
        breaks("receipts, shared, ClearsAll", &model(true, Variant::ClearsAll));
        for variant in [Variant::NoAttempts, Variant::PlainStore, Variant::SkipClaimed, Variant::GoneNotFinal]
        {
            breaks(&format!("receipts, shared, {variant:?}"), &model(true, variant));
        }
    }
}
