//! What `push` says of content that travels, beside what really did.

use serde_json::Value;

use super::{TWO_HOSTS, deployed};
use crate::support::lab::{TestLab, summary};

/// Bytes that do not compress, another stream for each seed (xorshift64).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn write(lab: &TestLab, path: &str, bytes: &[u8]) {
    let path = lab.path(path);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, bytes).unwrap();
}

fn count(transfer: &Value, member: &str) -> u64 {
    transfer[member].as_u64().unwrap_or_else(|| panic!("no `{member}` in {transfer}"))
}

#[test]
fn totals_are_exactly_what_was_sent() {
    let lab = deployed(TWO_HOSTS);
    // 4 MiB + 3 MiB that do not compress, 1 MiB that does, 40 small files, one content twice, and an empty file.
    let sizes = [("large", 4 << 20), ("other", 3 << 20)];
    for (seed, (name, len)) in (1..).zip(sizes) {
        write(&lab, &format!("build/data/{name}"), &noise(seed, len));
    }
    write(&lab, "build/data/zeros", &vec![0; 1 << 20]);
    for number in 0..40 {
        write(&lab, &format!("build/small/{number}"), &noise(100 + number, 1000));
    }
    write(&lab, "build/small/again", &noise(100, 1000));
    write(&lab, "build/small/empty", b"");

    let events = lab.events(0, &["push", "LAB", "app"]);
    let end = summary(&events);
    let (files, bytes) = (3 + 40, (8 << 20) + 40 * 1000);
    for host in 0..2 {
        let transfer = &end["hosts"][host]["transfer"];
        assert_eq!((count(transfer, "files"), count(transfer, "bytes")), (files, bytes), "{transfer}");
        assert_eq!((count(transfer, "reused_bytes"), count(transfer, "helper_bytes")), (0, 0), "{transfer}");
        let sent = count(transfer, "sent_bytes");
        let noise = 7 << 20;
        assert!((noise..noise + (256 << 10)).contains(&sent), "noise travels as it is, zeros hardly: {transfer}");
    }
    let whole = &end["transfer"];
    assert_eq!((count(whole, "files"), count(whole, "bytes")), (2 * files, 2 * bytes), "{whole}");
    let sum = |member| (0..2).map(|host| count(&end["hosts"][host]["transfer"], member)).sum::<u64>();
    assert_eq!(count(whole, "sent_bytes"), sum("sent_bytes"));
    assert!(count(whole, "millis") <= sum("millis") && count(whole, "millis") <= count(end, "millis"), "{end}");
    for told in events.iter().filter(|event| event["event"] == "transfer") {
        assert!(count(told, "files") <= count(told, "files_wanted"), "{told}");
        assert!(count(told, "bytes") <= count(told, "bytes_wanted"), "{told}");
        assert!(count(told, "bytes_wanted") <= bytes && count(told, "millis") >= 300, "{told}");
    }

    let again = lab.events(0, &["push", "LAB", "app"]);
    let nothing = serde_json::json!({
        "files": 0, "bytes": 0, "reused_bytes": 0, "sent_bytes": 0, "helper_bytes": 0, "millis": 0
    });
    assert_eq!(summary(&again)["transfer"], nothing);
    assert_eq!(summary(&again)["hosts"][0]["transfer"], nothing);
    assert!(!again.iter().any(|event| event["event"] == "transfer"));

    // A small change goes ahead of the plan; a changed large file mostly comes from the host's old version.
    write(&lab, "build/small/7", b"another seven");
    let ahead = lab.events(0, &["push", "LAB", "app"]);
    let transfer = &summary(&ahead)["hosts"][0]["transfer"];
    assert_eq!((count(transfer, "files"), count(transfer, "bytes")), (1, 13), "{transfer}");
    let mut large = noise(1, 4 << 20);
    large[2 << 20..(2 << 20) + 10_000].copy_from_slice(&noise(9, 10_000));
    write(&lab, "build/data/large", &large);
    let text = lab.expect(0, &["push", "LAB", "app"]);
    let line = text.stdout.lines().find(|line| line.starts_with("Sent ")).unwrap_or_default();
    assert!(line.starts_with("Sent 2 files, 8.00 MiB, to 2 hosts: "), "{}", text.stdout);
    assert!(line.contains(" KiB on the wire, ") && line.contains(" MiB reused"), "{line}");
    assert_eq!(text.stderr, "", "no terminal, no progress");
}

#[test]
fn the_first_contact_counts_the_helper() {
    let lab = TestLab::new(
        "[host.one]\ncontainer = { image = \"ovs-cuisine/ssh:latest\" }\n\n[component.plain]\nrecipe = \"plain\"\nhosts = [\"one\"]\n",
    );
    lab.recipe("plain", super::PLAIN);
    let events = lab.events(0, &["deploy", "LAB"]);
    let placed: Vec<&Value> = events.iter().filter(|event| event["phase"] == "bootstrapping").collect();
    let last = placed.last().expect("a new container has no helper");
    assert_eq!(last["bytes"], last["of"]);
    let transfer = &summary(&events)["hosts"][0]["transfer"];
    assert_eq!(transfer["helper_bytes"], last["of"]);
    assert_eq!((count(transfer, "files"), count(transfer, "bytes")), (0, 0), "no file travelled");
    let again = lab.events(0, &["deploy", "LAB"]);
    assert_eq!(summary(&again)["transfer"]["helper_bytes"], 0);
}
