//! Runs one service from its etcd link: `ovs-launch etcd://user:password@host:2379/prefix` or `ovs-launch @FILE`.

fn main() {}
