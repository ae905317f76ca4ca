//! The same requests to etcd's own v2 store and to ours: the same answers, but for the numbers of revisions.

use serde_json::{Map, Value};

use super::{
    Lab,
    v2::{Answer, Forwarder, ask, root_link},
};

/// etcd's own v2 API and ours, over two keyspaces that know nothing of each other.
struct Both {
    lab: Lab,
    ours: Forwarder,
    /// The last `modifiedIndex` that each told, for requests that name one.
    seen: [u64; 2],
}

impl Both {
    async fn start() -> Self {
        let lab = Lab::new(&["--enable-v2"]).await;
        let ours = Forwarder::start(&root_link(&lab.etcd));
        Self { lab, ours, seen: [0, 0] }
    }

    /// Asks both, theirs first.
    fn ask(&mut self, method: &str, path: &str, form: &str) -> [Answer; 2] {
        let ports = [self.lab.etcd.port, self.ours.port];
        let mut seen = self.seen;
        let answers = [0, 1].map(|which| {
            let fill = |text: &str| text.replace("{m}", &seen[which].to_string());
            let answer = ask(ports[which], method, &format!("/v2/keys{}", fill(path)), &fill(form));
            if let Ok(json) = serde_json::from_str::<Value>(&answer.text)
                && let Some(index) = json["node"]["modifiedIndex"].as_u64()
            {
                seen[which] = index;
            }
            answer
        });
        self.seen = seen;
        answers
    }

    /// Asks both and compares.
    fn compare(&mut self, method: &str, path: &str, form: &str) -> u16 {
        let [theirs, ours] = self.ask(method, path, form).map(|answer| normal(&answer));
        assert_eq!(theirs, ours, "theirs and ours to {method} {path} {form}");
        theirs.0
    }
}

/// Status, body and which headers are there, without the numbers of revisions.
fn normal(answer: &Answer) -> (u16, Value, Vec<&'static str>) {
    let mut body = serde_json::from_str(&answer.text).unwrap_or_else(|_| Value::from(answer.text.trim()));
    plain(&mut body);
    let names = ["content-type", "x-etcd-index", "x-raft-index", "x-raft-term", "allow"];
    let headers = names.into_iter().filter(|name| answer.header(name).is_some()).collect();
    (answer.status, body, headers)
}

fn plain(value: &mut Value) {
    if let Some(members) = value.as_object_mut() {
        plain_members(members);
    }
}

fn plain_members(members: &mut Map<String, Value>) {
    for name in ["createdIndex", "modifiedIndex"] {
        if let Some(index) = members.get_mut(name) {
            assert!(index.as_u64().is_some_and(|index| index > 0), "{index}");
            *index = Value::from("an index");
        }
    }
    // Only errors have this one; 0 where the store was not asked.
    if let Some(index) = members.get_mut("index") {
        *index = Value::from(index.as_u64() != Some(0));
    }
    // Indexes stand in what was compared, and in the names of keys in order.
    if members.get("errorCode") == Some(&Value::from(101)) || members.get("errorCode") == Some(&Value::from(401)) {
        let cause = members["cause"].as_str().unwrap_or_default();
        members["cause"] = cause.replace(|c: char| c.is_ascii_digit(), "").into();
    }
    if let Some(key) = members.get("key").and_then(Value::as_str)
        && let Some((parent, name)) = key.rsplit_once('/')
        && name.len() == 20
    {
        members["key"] = format!("{parent}/in order").into();
    }
    for name in ["node", "prevNode"] {
        if let Some(node) = members.get_mut(name) {
            plain(node);
        }
    }
    if let Some(nodes) = members.get_mut("nodes").and_then(Value::as_array_mut) {
        nodes.sort_by_key(|node| node["key"].as_str().map(str::to_owned));
        nodes.iter_mut().for_each(plain);
    }
}

/// In order; later ones build on earlier ones. `{m}` is the `modifiedIndex` told last.
const TABLE: &[(&str, &str, &str)] = &[
    ("GET", "", ""),
    ("GET", "/", ""),
    ("GET", "/a", ""),
    ("GET", "/a/b/c", ""),
    ("GET", "/?recursive=true", ""),
    // Files.
    ("PUT", "/a", "value=1"),
    ("GET", "/a", ""),
    ("HEAD", "/a", ""),
    ("GET", "/a/", ""),
    ("GET", "/a?recursive=true&sorted=true&quorum=true", ""),
    ("PUT", "/a", "value=2"),
    ("PUT", "/a?value=query", ""),
    ("PUT", "/a?value=query", "value=body"),
    ("PUT", "/a", ""),
    ("PUT", "/a", "value=%C3%A4+%26%3Cb%3E%22%0A"),
    ("GET", "/a", ""),
    ("PUT", "/with%20blank/%C3%A4%25", "value=x"),
    ("GET", "/with%20blank?recursive=true", ""),
    ("PUT", "/a", "value=v&noValueOnSuccess=true"),
    ("GET", "/a/b", ""),
    ("GET", "/a/b/c", ""),
    ("PUT", "/a/b", "value=1"),
    ("PUT", "/a/b/c", "value=1"),
    ("POST", "/a", "value=1"),
    ("POST", "/a/b", "value=1"),
    ("DELETE", "/a/b", ""),
    // Directories.
    ("PUT", "/d/e/f", "value=1"),
    ("PUT", "/d/e/g", "value=2"),
    ("PUT", "/d/h", "value=3"),
    ("PUT", "/d/_hidden/x", "value=3"),
    ("GET", "/d", ""),
    ("GET", "/d?recursive=true", ""),
    ("GET", "/d?recursive=true&sorted=true", ""),
    ("GET", "/d/_hidden", ""),
    ("GET", "/d/e/nothing", ""),
    ("PUT", "/d", "value=1"),
    ("PUT", "/d/e?prevExist=true", "value=1"),
    ("PUT", "/d/e?prevExist=false", "value=1"),
    ("PUT", "/d/e?prevValue=x", "value=1"),
    ("PUT", "/d?dir=true", ""),
    ("PUT", "/d?dir=true&prevExist=false", ""),
    ("PUT", "/empty?dir=true", ""),
    ("GET", "/empty", ""),
    ("GET", "/?recursive=true", ""),
    ("PUT", "/empty?dir=true", ""),
    ("PUT", "/empty?dir=true&prevExist=false", ""),
    ("PUT", "/empty2?dir=true&prevExist=false", ""),
    ("DELETE", "/empty2", ""),
    ("DELETE", "/empty2?dir=true", ""),
    ("PUT", "/empty/x", "value=1"),
    ("DELETE", "/empty?dir=true", ""),
    ("DELETE", "/empty/x", ""),
    ("GET", "/empty", ""),
    ("DELETE", "/empty?dir=true", ""),
    ("GET", "/empty", ""),
    ("PUT", "/file", "value=1"),
    ("PUT", "/file?dir=true", ""),
    ("GET", "/file", ""),
    ("PUT", "/file", "value=1"),
    // Conditions.
    ("PUT", "/new?prevExist=true", "value=1"),
    ("PUT", "/new/below?prevExist=true", "value=1"),
    ("PUT", "/new?prevExist=false", "value=1"),
    ("PUT", "/new?prevExist=false", "value=2"),
    ("PUT", "/new?prevExist=true", "value=3"),
    ("PUT", "/new?prevExist=true", ""),
    ("PUT", "/new", "value=4"),
    ("PUT", "/new?prevIndex={m}", "value=5"),
    ("PUT", "/new?prevIndex=1", "value=6"),
    ("PUT", "/new?prevIndex=0", "value=6"),
    ("PUT", "/new?prevValue=6", "value=7"),
    ("PUT", "/new?prevValue=6", "value=8"),
    ("PUT", "/new?prevValue=8&prevIndex=1", "value=9"),
    ("PUT", "/new?prevValue=7&prevIndex=1", "value=9"),
    ("PUT", "/new?prevValue=7&prevIndex={m}&prevExist=true", "value=9"),
    ("PUT", "/new?prevValue=7&prevExist=false", "value=9"),
    ("PUT", "/none?prevValue=7", "value=9"),
    ("PUT", "/none?prevIndex=7", "value=9"),
    ("DELETE", "/new?prevValue=x", ""),
    ("DELETE", "/new?prevIndex=1", ""),
    ("DELETE", "/d?prevIndex=1", ""),
    ("DELETE", "/d?prevIndex=1&recursive=true", ""),
    ("DELETE", "/none?prevIndex=1", ""),
    ("DELETE", "/new?prevValue=7", ""),
    ("GET", "/new", ""),
    // In order.
    ("POST", "/queue", "value=1"),
    ("POST", "/queue", "value=2"),
    ("POST", "/queue?dir=true", ""),
    ("POST", "/queue/deeper/still", "value=2"),
    ("POST", "/", "value=2"),
    ("GET", "/queue?recursive=true&sorted=true", ""),
    // Deletion.
    ("DELETE", "/none", ""),
    ("DELETE", "/none/below", ""),
    ("DELETE", "/d", ""),
    ("DELETE", "/d?dir=true", ""),
    ("DELETE", "/d?recursive=false", ""),
    ("DELETE", "/a?recursive=true", ""),
    ("DELETE", "/d/h?dir=true", ""),
    ("DELETE", "/d?recursive=true", ""),
    ("GET", "/d/e/f", ""),
    // The root.
    ("PUT", "/", "value=1"),
    ("PUT", "/?dir=true", ""),
    ("PUT", "/?prevExist=true", "value=1"),
    ("PUT", "/?prevExist=false", "value=1"),
    ("DELETE", "/", ""),
    ("DELETE", "/?recursive=true", ""),
    // What is no request.
    ("PUT", "/a?prevValue=", "value=1"),
    ("PUT", "/a?prevIndex=x", "value=1"),
    ("PUT", "/a?prevIndex=-1", "value=1"),
    ("PUT", "/a?prevExist=x", "value=1"),
    ("PUT", "/a?prevExist=", "value=1"),
    ("PUT", "/a?ttl=x", "value=1"),
    ("PUT", "/a?dir=2", "value=1"),
    ("PUT", "/a?wait=true", "value=1"),
    ("GET", "/a?wait=x", ""),
    ("GET", "/a?waitIndex=x", ""),
    ("GET", "/a?recursive=yes", ""),
    ("GET", "/a?quorum=", ""),
    ("PATCH", "/a", ""),
];

#[tokio::test]
async fn a_table_of_requests_is_answered_alike() {
    let mut both = Both::start().await;
    for (method, path, form) in TABLE {
        both.compare(method, path, form);
    }
}

/// A generator of numbers that is the same everywhere (Numerical Recipes' LCG).
struct Dice(u32);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::try_from(self.0 >> 16).unwrap() % bound
    }

    fn of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len())]
    }
}

#[tokio::test]
async fn sequences_at_random_are_answered_alike() {
    let mut both = Both::start().await;
    let mut counts = std::collections::BTreeMap::new();
    for seed in 0..12 {
        let mut dice = Dice(seed);
        for _ in 0..60 {
            // Few names, so that they get into each other's way.
            let depth = 1 + dice.below(3);
            let path: String = (0..depth).map(|_| dice.of(&["/p", "/q", "/_h"])).collect();
            let condition = dice.of(&[
                "",
                "",
                "",
                "?prevExist=true",
                "?prevExist=false",
                "?prevValue=1",
                "?prevIndex={m}",
                "?dir=true",
                "?recursive=true",
                "?prevExist=false&dir=true",
            ]);
            let value = dice.of(&["value=1", "value=2", "value=3"]);
            let (method, form) = match dice.below(10) {
                0..=4 => ("PUT", value),
                5..=6 => ("DELETE", ""),
                7 => ("POST", value),
                _ => ("GET", ""),
            };
            let form = if condition.contains("dir") { "" } else { form };
            let path = format!("/r{path}{condition}");
            let status = both.compare(method, &path, form);
            *counts.entry(status).or_insert(0) += 1;
            if method == "DELETE" && status == 200 {
                sweep(&mut both, path.split('?').next().unwrap());
            }
        }
        both.compare("GET", "/r?recursive=true", "");
        both.ask("DELETE", "/r?recursive=true", "");
    }
    // All kinds were met: else it proves nothing.
    for status in [200, 201, 400, 403, 404, 412] {
        assert!(counts.get(&status).is_some_and(|count| *count > 5), "{counts:?}");
    }
}

/// etcd's own directories stay when their last key goes; ours are made of keys. So the empty ones are taken away.
fn sweep(both: &mut Both, path: &str) {
    for (at, _) in path.rmatch_indices('/').filter(|(at, _)| *at > 0) {
        both.ask("DELETE", &format!("{}?dir=true", &path[..at]), "");
    }
}
