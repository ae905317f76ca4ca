//! Values that the programs would refuse, or take for something else, are refused before they are written.

use super::lab::Lab;

const ASD: &str = "manager = \"backend\"\nvolumes";
const PROXY: &str = "vpool = \"vp-fuse\", limit_memlock";
const GAP: &str = "trigger_gap = \"128MB\"";
const OVSDB: &str = "type = \"FWK\"";

#[track_caller]
fn refused(component: &str, from: &str, to: &str, parts: &[&str]) {
    let error = Lab::with(&[(from, to)]).config(component).unwrap_err();
    let text = format!("{error:?}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn an_error_names_component_key_and_member() {
    let asd = |setting: &str| format!("manager = \"backend\"\nsettings = {{ {setting} }}\nvolumes");
    let key = "key alba/asds/";
    refused(
        "asd",
        ASD,
        &asd("capcity = 1"),
        &["component asd", key, "member `capcity` is none that the program knows"],
    );
    refused("asd", ASD, &asd("transport = \"udp\""), &["component asd", key, "`transport` must be one of tcp, rdma"]);
    refused("asd", ASD, &asd("ips = [1]"), &[key, "`ips` must be strings"]);
    refused("asd", ASD, "manager = \"backend\"\nlimit = 0\nvolumes", &[key, "`limit` is a percentage"]);
}

#[test]
fn a_fragment_cache_is_what_alba_takes() {
    let proxy = |cache: &str| format!("vpool = \"vp-fuse\", settings = {{ fragment_cache = {cache} }}, limit_memlock");
    let key = "/config/main";
    refused("proxy-fuse", PROXY, &proxy("[\"loca\"]"), &[key, "`fragment_cache` is [\\\"none\\\"]"]);
    refused("proxy-fuse", PROXY, &proxy("[\"local\", { path = \"/x\" }]"), &[key, "`max_size` is missing"]);
    let relative = "[\"local\", { path = \"x\", max_size = 1, cache_on_read = true, cache_on_write = true }]";
    refused("proxy-fuse", PROXY, &proxy(relative), &[key, "`path` must be path"]);
}

#[test]
fn the_gaps_of_a_volumedriver_make_sense() {
    for wrong in ["0B", "3GB", "much"] {
        let wrong = format!("trigger_gap = \"{wrong}\"");
        refused("vd-fuse", GAP, &wrong, &["component vd-fuse", "/config/scocache", "trigger_gap"]);
    }
    refused("vd-fuse", GAP, &format!("{GAP}\nwrite_buffer = 16"), &["write_buffer must hold a tlog's SCOs, 64 MiB"]);
    let unchecked = format!("{GAP}\nextra = {{ scocache = {{ of_my_own = 1 }} }}");
    let config = Lab::with(&[(GAP, &unchecked)]).config("vd-fuse").unwrap();
    let (_, section) = config.iter().find(|(key, _)| key.ends_with("/scocache")).unwrap();
    assert!(section.contains("\"of_my_own\":1") && section.contains("\"trigger_gap\":\"128MB\""), "{section}");
}

#[test]
fn a_cluster_is_whole() {
    let more = |text: &str| format!("{OVSDB}, {text}");
    let key = "key arakoon/ovsdb/config [";
    refused("ovsdb", OVSDB, &more("settings = { tlog_max = 1 }"), &[key, "`tlog_max` is none"]);
    refused("ovsdb", OVSDB, &more("node_settings = { fsync = \"yes\" }"), &[key, "`fsync` must be bool"]);
    refused("ovsdb", OVSDB, &more("messaging_port = 26402"), &["client_port and messaging_port are both 26402"]);
    refused("ovsdb", OVSDB, "type = \"NSM\"", &["type NSM loads plugins of alba; give alba_build"]);
}

#[test]
fn a_build_of_another_layout_is_told_before_anything_starts() {
    let lab = Lab::demo();
    fs_err::remove_file(lab.build("alba/usr/lib/alba/nsm_host_plugin.cmxs")).unwrap();
    let error = format!("{:?}", lab.config("backend").unwrap_err());
    assert!(error.contains("alba_build") && error.contains("usr/lib/alba/nsm_host_plugin.cmxs"), "{error}");
}

#[test]
fn a_proxy_of_another_vpool_is_refused() {
    let (from, to) = ("proxy = \"proxy-fuse\"", "proxy = \"proxy-qemu\"");
    refused("vd-fuse", from, to, &["proxy component proxy-qemu serves vpool vp-qemu, not vp-fuse"]);
}
