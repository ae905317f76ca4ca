//! etcd's v2 HTTP API on loopback, served over the v3 keyspace with the link's login: for programs of a time when there
//! was no other API, which cannot log in by themselves. Semantics as in etcd 3.4, `server/etcdserver/api/v2store`.

mod answer;
mod gate;
mod listen;
mod listing;
mod query;
mod store;
mod watching;

pub(super) use listen::serve;
