//! Commands, shells and tunnels over a connection, and how its end is noticed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ovs_cuisine::control::link::{Link, LinkErrorKind, ShellStreams, TerminalSize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

use super::sshd::{INSIDE, Options, Sshd, free_port, shared};

#[tokio::test]
async fn two_hundred_commands_give_their_own_status() {
    let sshd = Sshd::start();
    let link = Arc::new(Link::connect(shared(sshd.target())).await.unwrap());
    for first in (0..200).step_by(8) {
        let runs = (first..first + 8).map(|status| {
            let link = Arc::clone(&link);
            async move { (status, link.exec(&format!("exit {status}")).await.unwrap().status) }
        });
        for (wanted, status) in futures::future::join_all(runs).await {
            assert_eq!(status, Some(wanted));
        }
    }
}

#[tokio::test]
async fn a_signal_is_a_status_too() {
    let sshd = Sshd::start();
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    let output = link.exec("kill -KILL $$").await.unwrap();
    assert_eq!((output.status, output.signal.as_deref()), (Some(137), Some("KILL")));
}

#[tokio::test]
async fn a_child_that_keeps_the_output_open_does_not_keep_us() {
    let sshd = Sshd::start();
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    let output = tokio::time::timeout(Duration::from_secs(60), link.exec("sleep 300 & echo done")).await.unwrap();
    assert_eq!(output.unwrap().stdout, b"done\n");
}

#[tokio::test]
async fn much_output_arrives_whole() {
    let sshd = Sshd::start();
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    let output = link.exec("head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2").await.unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len(), output.truncated), (3_000_000, 1_000_000, false));
    let output = link.exec("head -c 20000000 /dev/zero").await.unwrap();
    assert_eq!((output.stdout.len(), output.truncated, output.status), (16 * 1024 * 1024, true, Some(0)));
}

#[tokio::test]
async fn new_keys_in_mid_stream_lose_nothing() {
    let sshd = Sshd::with(&Options { config: "RekeyLimit 4M 1\n".to_owned(), ..Options::default() });
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    let (mut screen, streams) = screen(None);
    let echo = tokio::spawn(async move { link.shell_with(Some("cat"), streams).await });
    let (sent, input) = (64, screen.input);
    let piece = Bytes::from((0..1 << 20).map(|number: u32| number.to_le_bytes()[1]).collect::<Vec<u8>>());
    let sending = {
        let piece = piece.clone();
        tokio::spawn(async move {
            for _ in 0..sent {
                input.send(piece.clone()).await.unwrap();
            }
        })
    };
    for number in 0..sent {
        let mut back = vec![0; piece.len()];
        screen.output.read_exact(&mut back).await.unwrap();
        assert!(back == piece, "piece {number} differs");
    }
    sending.await.unwrap();
    assert_eq!(echo.await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_lost_connection_has_no_status() {
    let sshd = Sshd::start();
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    // $PPID is the session's sshd; its monitor and this command go with it.
    let output = link.exec("kill -9 $PPID; sleep 300").await.unwrap();
    assert_eq!((output.status, output.signal), (None, None));
    let why = link.why_lost().unwrap();
    assert!(why.contains("closed") || why.contains("reset"), "{why}");
    assert!(link.exec("true").await.is_err());
}

#[tokio::test]
async fn sessions_over_the_limit_are_refused_by_name() {
    let sshd = Sshd::with(&Options { config: "MaxSessions 0\n".to_owned(), ..Options::default() });
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    let error = link.exec("true").await.unwrap_err();
    assert!(matches!(&*error.kind, LinkErrorKind::OpenRefused { .. }), "{error}");
    assert!(error.hint().unwrap().contains("MaxSessions"));
}

#[tokio::test]
async fn a_tunnel_carries_both_ways() {
    let sshd = Sshd::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        }
    });
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    for _ in 0..2 {
        let stream = link.tunnel("127.0.0.1", port).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let sent: Vec<u8> = (0..3_000_000u32).map(|number| number.to_le_bytes()[0]).collect();
        let sending = {
            let sent = sent.clone();
            tokio::spawn(async move {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            })
        };
        let mut back = Vec::new();
        read.read_to_end(&mut back).await.unwrap();
        assert!(back == sent, "{} of {} bytes came back", back.len(), sent.len());
        sending.await.unwrap();
    }
    echo.await.unwrap();
    // A tunnel may be dropped on a thread that knows no runtime.
    let stream = link.tunnel("127.0.0.1", sshd.port).await.unwrap();
    std::thread::spawn(move || drop(stream)).join().unwrap();
    // A second connection carries tunnels, one for all of them.
    assert_eq!(sshd.log().matches("Accepted publickey").count(), 2);
}

#[tokio::test]
async fn a_tunnel_to_nothing_says_so_and_another_can_be_opened() {
    let sshd = Sshd::start();
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    let error = link.tunnel("127.0.0.1", free_port()).await.err().unwrap();
    assert!(matches!(&*error.kind, LinkErrorKind::Refused { .. }), "{error}");
    let mut stream = link.tunnel("127.0.0.1", sshd.port).await.unwrap();
    assert_eq!(stream.write(&[]).await.unwrap(), 0);
    let mut banner = [0; 4];
    stream.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"SSH-");
}

#[tokio::test]
async fn an_unread_tunnel_does_not_stop_commands() {
    let sshd = Sshd::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let flood = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while stream.write_all(&[0; 4096]).await.is_ok() {}
    });
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    let _unread = link.tunnel("127.0.0.1", port).await.unwrap();
    for _ in 0..20 {
        let output = tokio::time::timeout(Duration::from_secs(30), link.exec("true")).await.unwrap();
        assert_eq!(output.unwrap().status, Some(0));
    }
    flood.abort();
}

#[tokio::test]
async fn a_lost_second_connection_is_made_again() {
    let sshd = Sshd::start();
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    let mut stream = link.tunnel("127.0.0.1", sshd.port).await.unwrap();
    stream.read_u8().await.unwrap();
    // All sessions but the first, by age: the second connection's.
    sshd.inside("kill -9 $(pgrep -n -x sshd -P 1)");
    while stream.read_u8().await.is_ok() {}
    let mut stream = link.tunnel("127.0.0.1", sshd.port).await.unwrap();
    stream.read_u8().await.unwrap();
    assert_eq!(link.exec("true").await.unwrap().status, Some(0));
}

struct Screen {
    input: mpsc::Sender<Bytes>,
    sizes: mpsc::Sender<TerminalSize>,
    output: tokio::io::DuplexStream,
    errors: tokio::io::DuplexStream,
}

fn screen(terminal: Option<TerminalSize>) -> (Screen, ShellStreams) {
    let (input, far_input) = mpsc::channel(4);
    let (sizes, resized) = mpsc::channel(1);
    let (output, far_output) = tokio::io::duplex(1 << 20);
    let (errors, far_errors) = tokio::io::duplex(1 << 20);
    let streams = ShellStreams {
        input: far_input,
        output: Box::new(far_output),
        errors: Box::new(far_errors),
        terminal,
        resized,
    };
    (Screen { input, sizes, output, errors }, streams)
}

#[tokio::test]
async fn a_command_has_our_streams() {
    let sshd = Sshd::start();
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    let (mut screen, streams) = screen(None);
    screen.input.send(Bytes::from_static(b"hello")).await.unwrap();
    drop(screen.input);
    let status = link.shell_with(Some("cat; echo oops >&2; exit 3"), streams).await.unwrap();
    assert_eq!(status, 3);
    let (mut output, mut errors) = (String::new(), String::new());
    screen.output.read_to_string(&mut output).await.unwrap();
    screen.errors.read_to_string(&mut errors).await.unwrap();
    assert_eq!((output.as_str(), errors.as_str()), ("hello", "oops\n"));
}

#[tokio::test]
async fn a_shell_has_a_terminal_of_our_size() {
    let sshd = Sshd::start();
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    let (mut screen, streams) = screen(Some(TerminalSize { columns: 91, rows: 17 }));
    let shell = tokio::spawn(async move { link.shell_with(None, streams).await });
    let mut seen = String::new();
    let mut read_until = async |seen: &mut String, what: &str| {
        let mut buffer = [0; 4096];
        while !seen.contains(what) {
            let count = screen.output.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "the shell ended: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    screen.input.send(Bytes::from_static(b"stty size; tty\n")).await.unwrap();
    read_until(&mut seen, "17 91").await;
    read_until(&mut seen, "/dev/pts/").await;
    screen.sizes.send(TerminalSize { columns: 120, rows: 40 }).await.unwrap();
    // The size arrives apart from the input, so it is asked for until it is there.
    screen
        .input
        .send(Bytes::from_static(b"until [ \"$(stty size)\" = '40 120' ]; do :; done; echo new-\"size\"\n"))
        .await
        .unwrap();
    read_until(&mut seen, "new-size").await;
    screen.input.send(Bytes::from_static(b"exit 5\n")).await.unwrap();
    read_until(&mut seen, "exit").await;
    assert_eq!(shell.await.unwrap().unwrap(), 5);
}

/// The whole program under `script(1)`, which gives it a terminal. The terminal's settings must come back, also when
/// the program is told to end meanwhile.
#[test]
fn a_terminal_is_afterwards_as_before() {
    let sshd = Sshd::start();
    let inventory = sshd.path().join("lab.toml");
    let access = format!(
        "[lab]\nname = \"t\"\nrecipes = []\n\n[host.node]\nssh = {{ address = \"127.0.0.1\", port = {}, key = \"{}\", \
         host_key = \"{}\" }}\n",
        sshd.port,
        sshd.key().display(),
        sshd.host_key("ed25519")
    );
    fs_err::write(&inventory, access).unwrap();
    let program = format!("{} ssh {} node --", env!("CARGO_BIN_EXE_ovs-cuisine"), inventory.display());
    let mark = sshd.path().join("raw");
    let commands = format!(
        "exec 3<&0\nstty cols 77 rows 11\nstty -g\n{program} 'tty && stty size; exit 3'\necho status $?\nstty -g\n\
         {program} 'touch {INSIDE}/raw; sleep 300' <&3 &\n\
         while [ ! -e {mark} ]; do sleep 0.05; done\nstty -a | grep -o -e '-icanon'\n\
         kill -TERM $!\nwait $!\necho status $?\nstty -g\n",
        mark = mark.display()
    );
    let file = sshd.path().join("commands");
    fs_err::write(&file, commands).unwrap();
    let mut script = std::process::Command::new("script")
        .args(["-qec", &format!("bash {}", file.display()), "/dev/null"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Nothing is typed, and the keyboard stays there.
    let keyboard = script.stdin.take();
    let output = script.wait_with_output().unwrap();
    drop(keyboard);
    let text = String::from_utf8(output.stdout).unwrap().replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    let [before, tty, size, exit, after, raw, ended, at_last] = lines[..] else { panic!("{text}") };
    assert!(tty.starts_with("/dev/pts/"), "{text}");
    assert_eq!((size, exit, raw, ended), ("11 77", "status 3", "-icanon", "status 143"), "{text}");
    assert_eq!((before, before), (after, at_last), "{text}");
}

#[tokio::test]
async fn a_shell_whose_connection_breaks_has_no_status() {
    let sshd = Sshd::start();
    let link = Link::connect(shared(sshd.target())).await.unwrap();
    let (_screen, streams) = screen(None);
    let error = link.shell_with(Some("kill -9 $PPID; sleep 300"), streams).await.unwrap_err();
    assert!(matches!(&*error.kind, LinkErrorKind::Lost { .. }), "{error}");
}

#[tokio::test]
async fn a_frozen_host_is_noticed() {
    let sshd = Sshd::start();
    let mut target = sshd.target();
    target.timeouts.keepalive = Duration::from_millis(200);
    let link = Link::connect(shared(target)).await.unwrap();
    let frozen = tokio::spawn(async move {
        let output = link.exec("kill -STOP $PPID; sleep 300").await.unwrap();
        (output, link.why_lost().unwrap())
    });
    let (output, why) = tokio::time::timeout(Duration::from_secs(60), frozen).await.unwrap().unwrap();
    assert_eq!(output.status, None);
    assert!(why.contains("keepalive"), "{why}");
}
