//! What no honest peer sends: random bytes, and real frames with something broken in them. The wire must refuse them
//! or read them, and neither panic nor take more memory than it promises.
//!
//! The same is under `fuzz/`, for longer runs; these cases come with every test run.

use std::sync::LazyLock;

use ovs_cuisine::{
    plan::{
        Action, Answer, Change, Content, Detail, Diff, FailureKind, FileWrite, Offer, OfferKind, Op, OpFailure,
        Outcome, Plan, Question, Run, RunGuard, Secret, Source, Step, StepId, Tally,
    },
    tree::{ChunkId, Demand, Digest, Old, Supply, Time, TreeSummary, Want},
    wire::{
        FrameDecoder, FrameError, FromHelper, MAX_NOISE, Mode, NearHello, PROTOCOL, Preamble, PreambleScanner,
        StepEvent, StepReport, Stream, ToHelper, decode, encode, read_message,
    },
};
use proptest::prelude::*;

fn step(id: u32, op: Op) -> Step {
    Step {
        id: StepId(id),
        key: format!("step {id}"),
        op,
        source: Source { file: "recipes/agent/recipe.star".to_owned(), line: id },
        only_if_changed: (0..id).map(StepId).collect(),
        sensitive: id == 1,
        ignore_errors: false,
    }
}

fn plan() -> Plan {
    let file = FileWrite {
        path: "/etc/motd".parse().unwrap(),
        content: Content::Inline(b"welcome\n".repeat(1000)),
        mode: Some("0644".parse().unwrap()),
        owner: Some("ovs".parse().unwrap()),
        group: None,
    };
    let run = Run {
        command: Secret::new("echo secret".to_owned()),
        sensitive: true,
        guards: vec![RunGuard::Creates("/x".parse().unwrap()), RunGuard::Unless("true".to_owned())],
        directory: None,
        environment: vec![("KEY".to_owned(), Secret::new("value".to_owned()))],
        user: None,
        timeout_ms: 1000,
        success: vec![0],
        stdin: None,
        changes: true,
    };
    let steps = vec![step(0, Op::FileWrite(file)), step(1, Op::Run(run))];
    Plan { component: "agent".parse().unwrap(), host: "node-1".parse().unwrap(), steps }
}

fn to_helper() -> Vec<ToHelper> {
    let hello = NearHello {
        protocol: PROTOCOL,
        owner: "alice@laptop".to_owned(),
        lock_wait_ms: 10_000,
        lab: "lab".parse().unwrap(),
    };
    let question = Question::Output { command: "uname -r".to_owned(), timeout_ms: 5000 };
    vec![
        ToHelper::Hello(hello),
        ToHelper::Plan { request: 1, mode: Mode::Apply, plan: plan() },
        ToHelper::Ask { request: 2, questions: vec![Question::Exists("/etc".parse().unwrap()), question] },
        ToHelper::Supply { request: 1, supply: Supply::Literal((0..=255).cycle().take(5000).collect()) },
        ToHelper::Supply { request: 1, supply: Supply::Gone { why: "vanished".to_owned() } },
        ToHelper::Supplies { request: 1, supplies: vec![Supply::Take(7), Supply::End, Supply::Literal(vec![1; 300])] },
        ToHelper::Cancel { request: 1 },
        ToHelper::Fetch { request: 3, path: "/var/log".parse().unwrap(), recursive: true },
        ToHelper::Demand { request: 3, demand: demand() },
        ToHelper::Bye,
    ]
}

fn demand() -> Demand {
    let old = Old::Chunks { whole: vec![ChunkId { hash: [7; 16], len: 4096 }; 50], parts: vec![] };
    Demand { wants: vec![Want { digest: Digest::of(b"w"), size: 1 << 40, old }; 3] }
}

fn from_helper() -> Vec<FromHelper> {
    let change = Change::new(Action::Modify, "/etc/motd")
        .with(Detail::Text { before: "a\n".repeat(3000), after: "b\n".repeat(3000) })
        .with(Detail::Opaque { before: None, after: Some((12, Digest::of(b"x"))) });
    let failure = OpFailure::new(FailureKind::Command, "no").output(vec!["line".to_owned(); 20]).hint("do");
    let end = |outcome, diff| StepEvent::Finished { outcome, diff, micros: 42 };
    let reports = vec![
        StepReport { step: StepId(0), event: StepEvent::Started },
        StepReport { step: StepId(0), event: StepEvent::Output { stream: Stream::Stderr, line: "warn".to_owned() } },
        StepReport { step: StepId(0), event: end(Outcome::Changed, Some(Diff::of(change))) },
        StepReport { step: StepId(1), event: end(Outcome::Failed(failure.clone()), None) },
    ];
    let tree = TreeSummary {
        origin: "/var/log".to_owned(),
        root: Digest::of(b"r"),
        manifest: Digest::of(b"m"),
        manifest_size: 1,
        files: 2,
        bytes: 3,
        ignore: vec!["*.o".to_owned()],
        xattrs: false,
    };
    let kind = OfferKind::Directory { mtime: Time { secs: -1, nanos: 1 } };
    let offer = Offer { kind, tree, skipped: vec!["`/x`: a socket".to_owned()], skipped_count: 1 };
    let tally = Tally { changed: 1, failed: 1, ..Tally::default() };
    vec![
        FromHelper::Steps { request: 1, reports },
        FromHelper::Demand { request: 1, demand: demand() },
        FromHelper::Offered { request: 3, offer: Ok(offer) },
        FromHelper::Offered { request: 4, offer: Err(failure.clone()) },
        FromHelper::Supply { request: 3, supply: Supply::Literal(vec![7; 5000]) },
        FromHelper::Done { request: 1, tally },
        FromHelper::Answers { request: 2, answers: vec![Answer::Flag(true), Answer::Absent, Answer::Failed(failure)] },
        FromHelper::Fault { why: "no state directory".to_owned() },
    ]
}

/// All messages of both directions as they travel, one frame each.
static FRAMES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let to = to_helper().into_iter().map(|message| encode(&message).unwrap());
    to.chain(from_helper().into_iter().map(|message| encode(&message).unwrap())).collect()
});

/// Reads a stream in pieces as both sides would. Gives the number of frames, and the error that ended it.
fn read(stream: &[u8], piece: usize) -> (usize, Option<FrameError>) {
    let mut decoder = FrameDecoder::default();
    let mut frames = 0;
    for bytes in stream.chunks(piece.max(1)) {
        decoder.push(bytes);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    frames += 1;
                    let _ = decode::<FromHelper>(&frame);
                    let _ = decode::<ToHelper>(&frame);
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

#[test]
fn every_message_survives_the_channel() {
    for message in to_helper() {
        assert_eq!(read_message::<ToHelper>(&mut encode(&message).unwrap().as_slice()).unwrap(), Some(message));
    }
    for message in from_helper() {
        assert_eq!(read_message::<FromHelper>(&mut encode(&message).unwrap().as_slice()).unwrap(), Some(message));
    }
}

/// A frame around a body that is given as it is.
fn frame_around(body: &[u8]) -> Vec<u8> {
    let packed = zstd::bulk::compress(body, 3).unwrap();
    let word = u32::try_from(packed.len()).unwrap() | 1 << 31;
    [&word.to_le_bytes(), packed.as_slice()].concat()
}

#[test]
fn a_few_kilobytes_cannot_unpack_to_gigabytes() {
    // 10 million times the shortest answer, compressed: 80 bytes of memory for each byte.
    let count: usize = 10_000_000;
    let mut body = postcard::to_stdvec(&FromHelper::Answers { request: 1, answers: vec![Answer::Absent] }).unwrap();
    let one = body.pop().unwrap();
    assert_eq!(body.pop(), Some(1), "the number of answers");
    body.extend(postcard::to_stdvec(&count).unwrap());
    body.resize(body.len() + count, one);
    let frame = frame_around(&body);
    assert!(frame.len() < 64 * 1024, "{} bytes travel", frame.len());
    let read = read_message::<FromHelper>(&mut frame.as_slice());
    assert!(matches!(read, Err(FrameError::Memory)), "{read:?}");
}

#[derive(Debug, Clone)]
enum Damage {
    Flip { at: prop::sample::Index, bits: u8 },
    Cut { at: prop::sample::Index },
    Insert { at: prop::sample::Index, bytes: Vec<u8> },
    Remove { at: prop::sample::Index, count: usize },
    Append { frame: prop::sample::Index },
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), 1u8..).prop_map(|(at, bits)| Damage::Flip { at, bits }),
        1 => at().prop_map(|at| Damage::Cut { at }),
        2 => (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Damage::Insert { at, bytes }),
        2 => (at(), 1usize..9).prop_map(|(at, count)| Damage::Remove { at, count }),
        2 => at().prop_map(|frame| Damage::Append { frame }),
    ]
}

fn damaged(mut stream: Vec<u8>, damages: &[Damage], frames: &[Vec<u8>]) -> Vec<u8> {
    for damage in damages {
        let len = stream.len();
        match damage {
            _ if len == 0 => {}
            Damage::Flip { at, bits } => stream[at.index(len)] ^= bits,
            Damage::Cut { at } => stream.truncate(at.index(len)),
            Damage::Insert { at, bytes } => {
                let at = at.index(len);
                stream.splice(at..at, bytes.iter().copied());
            }
            Damage::Remove { at, count } => {
                let at = at.index(len);
                stream.drain(at..(at + count).min(len));
            }
            Damage::Append { frame } => stream.extend(frame.get(frames)),
        }
    }
    stream
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_refused_or_read(stream in prop::collection::vec(any::<u8>(), 0..4096), piece in 1usize..700) {
        let (frames, _) = read(&stream, piece);
        prop_assert!(frames <= stream.len() / 5);
        let _ = read_message::<FromHelper>(&mut stream.as_slice());
    }

    #[test]
    fn random_bodies_are_refused_or_read(body in prop::collection::vec(any::<u8>(), 1..2048)) {
        let (frames, error) = read(&frame_around(&body), 512);
        prop_assert_eq!(frames, 1);
        prop_assert!(error.is_none());
    }

    #[test]
    fn broken_frames_are_refused_or_read(
        first in any::<prop::sample::Index>(),
        damages in prop::collection::vec(damage(), 1..6),
        piece in 1usize..5000,
    ) {
        let frames = &*FRAMES;
        let stream = damaged(first.get(frames).clone(), &damages, frames);
        let (whole, error) = read(&stream, stream.len());
        prop_assert!(whole <= stream.len() / 5);
        // Pieces change nothing: the same frames, and an error at the same place or none.
        let (in_pieces, same_error) = read(&stream, piece);
        prop_assert_eq!(whole, in_pieces);
        prop_assert_eq!(error.is_some(), same_error.is_some());
    }

    #[test]
    fn a_stream_of_whole_frames_is_read_whole(
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        piece in 1usize..3000,
    ) {
        let frames = &*FRAMES;
        let stream: Vec<u8> = picks.iter().flat_map(|pick| pick.get(frames).clone()).collect();
        let (read, error) = read(&stream, piece);
        prop_assert_eq!(read, picks.len());
        prop_assert!(error.is_none());
    }

    #[test]
    fn a_preamble_is_found_after_any_noise(
        noise in prop::collection::vec(any::<u8>(), 0..3000),
        rest in prop::collection::vec(any::<u8>(), 0..100),
        piece in 1usize..500,
    ) {
        let preamble = Preamble::new("n0nce").unwrap();
        let stream = [noise.as_slice(), preamble.as_bytes(), rest.as_slice()].concat();
        prop_assume!(stream.len() < MAX_NOISE);
        let mut scanner = PreambleScanner::new(preamble);
        let mut found: Option<Vec<u8>> = None;
        for bytes in stream.chunks(piece) {
            match &mut found {
                Some(found) => found.extend(bytes),
                None => found = scanner.push(bytes).unwrap(),
            }
        }
        prop_assert_eq!(found, Some(rest));
    }
}
