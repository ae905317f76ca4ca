//! What is written at one end is read at the other: file, iSCSI unit, QEMU disk, object.

use serde_json::json;

use crate::support::{lab::TestLab, wait::wait_for};

/// One shell word for a pattern that no fresh disk holds.
const PATTERN: &str = "od -An -v -tx1 -N4 -j";

/// The first bytes at an offset of a file, in hexadecimal.
fn bytes_at(lab: &TestLab, host: &str, file: &str, offset: u32) -> String {
    lab.inside(host, &format!("{PATTERN}{offset} {file}")).replace([' ', '\n'], "")
}

pub(super) fn what_one_end_writes_the_other_reads(lab: &TestLab) {
    // FUSE: one program writes, another reads; the mount is a file system of its own.
    let mount = lab.inside("vd-fuse", "stat -f -c %T /mnt/vp-fuse; grep -c ' /mnt/vp-fuse fuse' /proc/mounts");
    assert_eq!(mount, "fuseblk\n1\n");
    lab.inside("vd-fuse", "printf 'by hand' | dd of=/mnt/vp-fuse/disk1.raw bs=1 seek=8192 conv=notrunc status=none");
    assert_eq!(lab.inside("vd-fuse", "dd if=/mnt/vp-fuse/disk1.raw bs=1 skip=8192 count=7 status=none"), "by hand");

    // QEMU's own driver for iSCSI, on another host than the target.
    lab.expect(0, &["run", "LAB", "-e", "package_ensure(\"qemu-block-extra\")", "--on", "vd-qemu"]);
    let target = lab.inside("vd-iscsi", "tgtadm --lld iscsi --mode target --op show | sed -n 's/^Target 1: //p'");
    let url = format!("iscsi://{}/{}/1", lab.address("vd-iscsi"), target.trim());
    lab.inside("vd-qemu", &format!("qemu-io -f raw -c 'write -P 0x5a 4096 4096' {url}"));
    assert_eq!(bytes_at(lab, "vd-iscsi", "/mnt/vp-iscsi/disk1.raw", 4096), "5a5a5a5a");
    lab.inside(
        "vd-iscsi",
        "head -c 512 /dev/zero | tr '\\0' '\\245' | \
                            dd of=/mnt/vp-iscsi/disk1.raw bs=512 seek=64 conv=notrunc,fsync status=none",
    );
    let read = lab.inside("vd-qemu", &format!("qemu-io -f raw -c 'read -P 0xa5 32768 512' {url}"));
    assert!(!read.contains("Pattern verification failed"), "{read}");

    // QEMU's disk, and the same bytes by the volumedriver's edge, where a patched QEMU would come in.
    lab.inside("vd-qemu", "qemu-io -f raw -c 'write -P 0xc3 65536 512' /mnt/vp-qemu/disk1.raw");
    let request = json!({"op": "read", "volume": "disk1", "offset": 65536, "length": 4});
    let program = format!(
        "import socket,json;s=socket.create_connection((\"{}\",26203));s.sendall(b'{request}\\n');\
         print(json.loads(s.makefile().readline()))",
        lab.address("vd-qemu")
    );
    let answer = lab.inside("vd-qemu", &format!("python3 -c '{}'", program.replace('\'', "'\\''")));
    assert!(answer.contains("'ok': True") && answer.contains("w8PDww=="), "{answer}");
}

pub(super) fn objects_go_through_the_proxy(lab: &TestLab) {
    let proxy = format!("-h {} -p 26204", lab.address("vd-fuse"));
    let alba = |words: &str| {
        lab.inside("vd-fuse", &format!("LD_LIBRARY_PATH=/usr/lib/alba /usr/bin/alba {words} {proxy} 2>&1"))
    };
    lab.inside("vd-fuse", "head -c 300000 /dev/urandom > /var/tmp/object");
    alba("proxy-create-namespace demo");
    wait_for("a namespace that takes objects", || {
        let put = "LD_LIBRARY_PATH=/usr/lib/alba /usr/bin/alba proxy-upload-object demo /var/tmp/object key";
        let tried = lab.inside("vd-fuse", &format!("{put} {proxy} >/dev/null 2>&1 && echo yes || true"));
        tried.contains("yes").then_some(())
    });
    alba("proxy-download-object demo key /var/tmp/back");
    lab.inside("vd-fuse", "cmp /var/tmp/object /var/tmp/back");
    // It lies on ASDs of several hosts.
    let holders = ["asd-1", "asd-2", "asd-3"].map(|host| lab.inside(host, "find /mnt/alba-asd -size +50k | wc -l"));
    assert!(holders.iter().filter(|count| count.trim() != "0").count() >= 2, "{holders:?}");
}

/// A volume that leaves the list is emptied first; what others hold stays, and so do their ports and names.
pub(super) fn a_volume_goes_and_comes_back(lab: &TestLab) {
    let known = || {
        let list = "LD_LIBRARY_PATH=/usr/lib/alba /usr/bin/alba list-osds \
                    --config /opt/ovs-cuisine/started/asd.abm.ini --to-json";
        lab.inside("asd-1", list).matches("long_id").count()
    };
    let ids = || lab.inside("asd-2", "ls /mnt/alba-asd/disk-2");
    let (before, both) = (ids(), "volumes = [\"/mnt/alba-asd/disk-1\", \"/mnt/alba-asd/disk-2\"]");
    lab.edit(both, "volumes = [\"/mnt/alba-asd/disk-2\"]");
    let moved = lab.run(&["deploy", "LAB"]);
    assert!(moved.status >= 20 && moved.stderr.contains("write an empty text in the place"), "{moved:?}");
    lab.edit("volumes = [\"/mnt/alba-asd/disk-2\"]", "volumes = [\"\", \"/mnt/alba-asd/disk-2\"]");
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!(known(), 3, "one on each host is left");
    assert_eq!(ids(), before);
    assert_eq!(lab.inside("asd-1", "ls -d /etc/service/alba-asd-* | wc -l"), "1\n", "the other one's service went");
    the_object_is_still_there(lab);
    lab.edit("volumes = [\"\", \"/mnt/alba-asd/disk-2\"]", both);
    lab.expect(0, &["deploy", "LAB"]);
    assert_eq!((known(), ids()), (6, before));
    the_object_is_still_there(lab);
}

/// The object of [`objects_go_through_the_proxy`] is still whole.
pub(super) fn the_object_is_still_there(lab: &TestLab) {
    let proxy = format!("-h {} -p 26204", lab.address("vd-fuse"));
    lab.inside(
        "vd-fuse",
        &format!(
            "rm -f /var/tmp/back; LD_LIBRARY_PATH=/usr/lib/alba /usr/bin/alba proxy-download-object demo key /var/tmp/back {proxy} \
             && cmp /var/tmp/object /var/tmp/back"
        ),
    );
}
