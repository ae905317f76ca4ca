//! What several integration tests need.

pub(crate) mod etcdctl;
pub(crate) mod lab;
pub(crate) mod listener;
pub(crate) mod wait;
