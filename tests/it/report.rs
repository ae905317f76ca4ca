//! What people and programs read of a run, as snapshots: each story is told once by events and shown in many styles.
//!
//! The snapshots are in `tests/snapshots/report__*.snap`; `INSTA_UPDATE=always cargo test report::` writes them anew.

mod stories;

use std::{
    fmt::Write as _,
    io::{self, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ovs_cuisine::{
    control::{
        event::{ConfigChange, RunEvent, RunKind, StepProgress},
        report::{self, ColorWhen, ReportKind, ReportStyle, Sinks},
    },
    plan::Action,
};
use tokio::sync::mpsc;

use stories::{
    bad_deploy, clean_plan, every_story, exec, first_deploy, hostile, lab_up, long_push, plan_of_everything, refused,
    run_started, second_deploy, step, store_lost,
};

/// What a reporter wrote to one stream.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Shown {
    results: String,
    progress: String,
}

impl Shown {
    fn both(&self) -> String {
        format!("--- standard output\n{}--- standard error\n{}", self.results, self.progress)
    }
}

const PLAIN: ReportStyle = ReportStyle { kind: ReportKind::Plain, diff: false, verbosity: 0, color: ColorWhen::Never };
const CHATTY: ReportStyle = ReportStyle { verbosity: 1, ..PLAIN };
const JSON: ReportStyle = ReportStyle { kind: ReportKind::Json, ..PLAIN };

fn show_in(style: ReportStyle, color: bool, events: &[RunEvent]) -> Shown {
    let (results, progress) = (Paper::default(), Paper::default());
    let sinks = Sinks {
        results: Box::new(results.clone()),
        progress: Box::new(progress.clone()),
        results_color: color,
        progress_color: color,
        terminal: false,
    };
    let mut reporter = report::reporter_to(style, sinks);
    let now = Instant::now();
    for event in events {
        reporter.event(event, now);
        reporter.tick(now);
    }
    reporter.finish().unwrap();
    Shown { results: results.text(), progress: progress.text() }
}

fn show(style: ReportStyle, events: &[RunEvent]) -> Shown {
    show_in(style, false, events)
}

fn assert_snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(format!("report__{name}"), text));
}

#[test]
fn a_plan_shows_what_would_change_in_the_order_of_the_graph() {
    assert_snapshot("plan", &show(PLAIN, &plan_of_everything()).both());
}

#[test]
fn a_chatty_plan_also_shows_what_would_not() {
    assert_snapshot("plan_verbose", &show(CHATTY, &plan_of_everything()).both());
}

#[test]
fn a_clean_plan_says_so() {
    let shown = show(PLAIN, &clean_plan());
    assert_eq!(shown.results, "No changes.\n0 to change, 44 unchanged, 0 unknown, 0 skipped.\n");
    assert_eq!(shown.progress, "");
}

#[test]
fn a_deploy_tells_what_it_does_and_what_came_of_it() {
    assert_snapshot("deploy", &show(PLAIN, &first_deploy()).both());
}

#[test]
fn a_chatty_deploy_tells_everything() {
    assert_snapshot("deploy_verbose", &show(CHATTY, &first_deploy()).both());
}

#[test]
fn diffs_of_a_deploy_are_results() {
    assert_snapshot("deploy_diff", &show(ReportStyle { diff: true, ..PLAIN }, &first_deploy()).both());
}

#[test]
fn a_second_deploy_plainly_says_that_nothing_changed() {
    let shown = show(PLAIN, &second_deploy());
    assert!(shown.results.ends_with("\n0 changed, 44 unchanged, 0 failed in 1.8 s.\n"), "{}", shown.results);
    assert_snapshot("deploy_second", &shown.both());
}

#[test]
fn failures_name_host_step_place_and_remedy_and_are_said_once() {
    assert_snapshot("deploy_failed", &show(PLAIN, &bad_deploy()).both());
}

#[test]
fn a_component_that_failed_without_a_step_is_counted() {
    let shown = show(PLAIN, &store_lost());
    assert!(shown.results.contains("0 changed, 3 unchanged, 1 component failed in "), "{}", shown.both());
    let failed_steps = show(PLAIN, &bad_deploy()).results;
    assert!(failed_steps.contains(", 2 failed, "), "{failed_steps}");
}

#[test]
fn output_of_commands_is_the_result_of_exec() {
    let shown = show(PLAIN, &exec());
    assert_eq!(shown.results, "controller | up 3 days\ncontroller |\n");
    assert_snapshot("exec", &shown.both());
}

#[test]
fn starting_and_removing_containers_is_told() {
    assert_snapshot("lab", &show(PLAIN, &lab_up()).both());
}

#[test]
fn a_push_says_what_it_sent_and_progress_is_for_terminals() {
    let shown = show(PLAIN, &long_push());
    assert_eq!(
        shown.results,
        "agent: +12, 12.00 MiB in 1.7 s to 2 hosts, restarted agent\n\
         Sent 24 files, 24.00 MiB, to 2 hosts: 6.87 MiB on the wire, 96.00 KiB reused, 16.00 MiB/s.\n"
    );
    assert_eq!(shown.progress, "", "no terminal, no progress");
    let mut lines = String::new();
    for line in show(JSON, &long_push()).results.lines() {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["time"] = 0.into();
        if ["transfer", "run-finished"].contains(&line["event"].as_str().unwrap()) {
            writeln!(lines, "{line}").unwrap();
        }
    }
    assert_snapshot("push_json", &lines);
}

#[test]
fn a_problem_is_an_error_with_causes_and_a_hint() {
    let mut problem = refused();
    problem.output_tail = vec!["kex_exchange_identification: read".to_owned()];
    assert_eq!(
        report::plain(&report::problem_text(&problem)),
        "error: cannot connect to 10.0.0.9:22\n\
         because: connection refused\n\
         output:\n    kex_exchange_identification: read\n\
         hint: start sshd on the host, or correct `address` in the inventory\n"
    );
}

#[test]
fn changed_keys_are_shown_by_themselves() {
    assert_eq!(report::config_changes_text(&[]), "");
    let created =
        ConfigChange { key: "/ovs/x".to_owned(), action: Action::Create, before: None, after: Some("***".to_owned()) };
    assert_eq!(report::plain(&report::config_changes_text(&[created])), "+ /ovs/x\n    secret\n");
}

#[test]
fn colour_adds_nothing_but_colour() {
    for style in [PLAIN, CHATTY, ReportStyle { diff: true, ..PLAIN }] {
        let bare = show_in(style, false, &every_story());
        let painted = show_in(style, true, &every_story());
        assert!(!bare.both().contains('\u{1b}'));
        assert!(painted.results.contains('\u{1b}') && painted.progress.contains('\u{1b}'));
        assert_eq!(report::plain(&painted.results), bare.results);
        assert_eq!(report::plain(&painted.progress), bare.progress);
    }
}

#[test]
fn json_is_one_versioned_object_a_line() {
    let shown = show(JSON, &every_story());
    assert_eq!(shown.progress, "");
    let lines: Vec<serde_json::Value> = shown.results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), every_story().len());
    for line in &lines {
        assert_eq!(line["schema"], 1);
        assert!(line["time"].as_u64().unwrap() > 1_600_000_000_000, "milliseconds since 1970: {line}");
        assert!(line["event"].is_string());
    }
    let mut shortened = String::new();
    for line in show(JSON, &[first_deploy(), bad_deploy()].concat()).results.lines() {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["time"] = 0.into();
        writeln!(shortened, "{line}").unwrap();
    }
    assert_snapshot("json", &shortened);
}

#[test]
fn every_event_and_member_of_the_json_lines_is_documented() {
    fn members(value: &serde_json::Value, names: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(object) => {
                for (name, value) in object {
                    names.push(name.clone());
                    members(value, names);
                }
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| members(value, names)),
            _ => {}
        }
    }
    let page = fs_err::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json-events.md")).unwrap();
    let mut names = Vec::new();
    for line in show(JSON, &every_story()).results.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        members(&line, &mut names);
        for name in ["event", "phase", "progress"] {
            names.extend(line.get(name).map(|value| value.as_str().unwrap().to_owned()));
        }
        names.extend(line.pointer("/outcome/is").map(|value| value.as_str().unwrap().to_owned()));
    }
    names.sort();
    names.dedup();
    let missing: Vec<&String> = names.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(names.len() > 60, "{names:?}");
    assert!(missing.is_empty(), "docs/json-events.md does not mention {missing:?}");
}

#[test]
fn nothing_that_a_host_says_steers_the_terminal() {
    for style in [PLAIN, CHATTY, ReportStyle { diff: true, ..CHATTY }] {
        let shown = show_in(style, true, &hostile());
        let text = report::plain(&shown.both());
        let odd = |c: &char| (c.is_control() && !matches!(c, '\n' | '\t')) || *c == '\u{202e}';
        assert_eq!(text.chars().find(odd), None, "{text}");
        // What is left of escapes in the painted text must be colours only.
        for part in shown.both().split('\u{1b}').skip(1) {
            let body = part.strip_prefix('[').and_then(|part| part.split_once('m')).map(|(body, _)| body);
            let is_color = body.is_some_and(|body| body.chars().all(|c| c.is_ascii_digit() || c == ';'));
            assert!(is_color, "{part:?}");
        }
    }
    let json = show(JSON, &hostile());
    assert!(!json.results.contains('\u{1b}'), "JSON escapes them");
}

/// A reader that has gone away.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_goes_away_stops_no_run() {
    for style in [PLAIN, JSON] {
        let sinks = Sinks {
            results: Box::new(Closed),
            progress: Box::new(Closed),
            results_color: false,
            progress_color: false,
            terminal: false,
        };
        let mut reporter = report::reporter_to(style, sinks);
        for event in &every_story() {
            reporter.event(event, Instant::now());
        }
        assert_eq!(reporter.finish().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}

#[test]
fn a_silent_step_gets_a_heartbeat() {
    let progress = Paper::default();
    let sinks = Sinks {
        results: Box::new(io::sink()),
        progress: Box::new(progress.clone()),
        results_color: false,
        progress_color: false,
        terminal: false,
    };
    let mut reporter = report::reporter_to(PLAIN, sinks);
    let now = Instant::now();
    reporter.event(&run_started(RunKind::Deploy, &["node-1"], &["agent"]), now);
    reporter.event(&step(("agent", "node-1"), "run make", 1, StepProgress::Started), now);
    for seconds in [1, 29, 30, 31, 59, 60] {
        reporter.tick(now + Duration::from_secs(seconds));
    }
    assert_eq!(
        progress.text(),
        "Deploying demo: 1 component on 1 host.\n\
         node-1 | agent: run make is still running after 30 s\n\
         node-1 | agent: run make is still running after 1 min 0 s\n"
    );
}

#[tokio::test]
async fn follow_shows_a_channel_to_its_end_and_gives_the_summary() {
    let progress = Paper::default();
    let sinks = Sinks {
        results: Box::new(progress.clone()),
        progress: Box::new(io::sink()),
        results_color: false,
        progress_color: false,
        terminal: false,
    };
    let (events, inbox) = mpsc::channel(1);
    let sender = tokio::spawn(async move {
        for event in second_deploy() {
            events.send(event).await.unwrap();
        }
    });
    let mut reporter = report::reporter_to(PLAIN, sinks);
    let summary = report::follow(inbox, reporter.as_mut()).await.unwrap();
    sender.await.unwrap();
    assert_eq!(summary.millis, 1_810);
    assert!(progress.text().ends_with("0 changed, 44 unchanged, 0 failed in 1.8 s.\n"));
}
