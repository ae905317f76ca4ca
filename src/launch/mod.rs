//! Inside a container: reads an etcd link, renders files, runs the process, follows changes.
