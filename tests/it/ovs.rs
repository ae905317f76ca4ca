//! The recipes of Open vStorage: what they write, run and refuse, without any host.

mod builders;
mod etcd;
mod guide;
mod lab;
mod plans;
