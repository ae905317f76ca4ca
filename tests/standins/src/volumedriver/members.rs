//! What each section of a volumedriver's configuration may hold, after the table of volumedriver's docs/config.md.

use serde_json::{Map, Value};

/// The section that holds others of its kind, by number, when its type is `MULTI`.
const BACKEND: &str = "backend_connection_manager";

/// Sections and their members.
const MEMBERS: &[(&str, &[&str])] = &[
    (
        "volume_router",
        &[
            "vrouter_local_io_sleep_before_retry_usecs",
            "vrouter_local_io_retries",
            "vrouter_check_local_volume_potential_period",
            "vrouter_volume_read_threshold",
            "vrouter_volume_write_threshold",
            "vrouter_file_read_threshold",
            "vrouter_file_write_threshold",
            "vrouter_redirect_timeout_ms",
            "vrouter_backend_sync_timeout_ms",
            "vrouter_migrate_timeout_ms",
            "vrouter_redirect_retries",
            "vrouter_id",
            "vrouter_sco_multiplier",
            "vrouter_routing_retries",
            "vrouter_min_workers",
            "vrouter_max_workers",
            "vrouter_registry_cache_capacity",
            "vrouter_use_fencing",
            "vrouter_send_sync_response",
        ],
    ),
    ("volume_router_cluster", &["vrouter_cluster_id"]),
    ("fuse", &["fuse_min_workers", "fuse_max_workers"]),
    ("shm_interface", &["shm_region_size"]),
    (
        "network_interface",
        &[
            "network_uri",
            "network_snd_rcv_queue_depth",
            "network_workqueue_max_threads",
            "network_workqueue_ctrl_max_threads",
            "network_max_neighbour_distance",
        ],
    ),
    (
        "filesystem",
        &[
            "fs_ignore_sync",
            "fs_virtual_disk_format",
            "fs_raw_disk_suffix",
            "fs_max_open_files",
            "fs_file_event_rules",
            "fs_metadata_backend_type",
            "fs_metadata_backend_arakoon_cluster_id",
            "fs_metadata_backend_arakoon_cluster_nodes",
            "fs_metadata_backend_mds_nodes",
            "fs_metadata_backend_mds_apply_relocations_to_slaves",
            "fs_metadata_backend_mds_timeout_secs",
            "fs_cache_dentries",
            "fs_dtl_config_mode",
            "fs_dtl_host",
            "fs_dtl_port",
            "fs_dtl_mode",
            "fs_enable_shm_interface",
            "fs_enable_network_interface",
        ],
    ),
    ("event_publisher", &["events_amqp_uris", "events_amqp_exchange", "events_amqp_routing_key"]),
    ("distributed_transaction_log", &["dtl_path", "dtl_transport"]),
    (
        "volume_registry",
        &["vregistry_arakoon_timeout_ms", "vregistry_arakoon_cluster_id", "vregistry_arakoon_cluster_nodes"],
    ),
    ("scrub_manager", &["scrub_manager_interval", "scrub_manager_sync_wait_secs"]),
    ("stats_collector", &["stats_collector_interval_secs", "stats_collector_destination"]),
    ("file_driver", &["fd_cache_path", "fd_namespace", "fd_extent_cache_capacity"]),
    ("threadpool_component", &["num_threads"]),
    (
        "volume_manager",
        &[
            "metadata_path",
            "tlog_path",
            "open_scos_per_volume",
            "dtl_throttle_usecs",
            "dtl_queue_depth",
            "dtl_write_trigger",
            "dtl_busy_loop_usecs",
            "dtl_request_timeout_ms",
            "dtl_connect_timeout_ms",
            "clean_interval",
            "sap_persist_interval",
            "dtl_check_interval_in_seconds",
            "read_cache_default_behaviour",
            "read_cache_default_mode",
            "sco_written_to_backend_action",
            "required_tlog_freespace",
            "required_meta_freespace",
            "freespace_check_interval",
            "number_of_scos_in_tlog",
            "non_disposable_scos_factor",
            "default_cluster_size",
            "metadata_cache_capacity",
            "debug_metadata_path",
            "arakoon_metadata_sequence_size",
        ],
    ),
    ("scocache", &["trigger_gap", "backoff_gap", "scocache_mount_points"]),
    (
        "content_addressed_cache",
        &["read_cache_serialization_path", "serialize_read_cache", "clustercache_mount_points"],
    ),
    (
        "distributed_lock_store",
        &["dls_type", "dls_arakoon_timeout_ms", "dls_arakoon_cluster_id", "dls_arakoon_cluster_nodes"],
    ),
    (
        "metadata_server",
        &["mds_db_type", "mds_cached_pages", "mds_poll_secs", "mds_timeout_secs", "mds_threads", "mds_nodes"],
    ),
    (
        BACKEND,
        &[
            "backend_connection_pool_capacity",
            "backend_connection_pool_blacklist_secs",
            "backend_interface_retries_on_error",
            "backend_interface_retry_interval_secs",
            "backend_interface_retry_backoff_multiplier",
            "backend_type",
            "local_connection_path",
            "s3_connection_host",
            "s3_connection_port",
            "s3_connection_username",
            "s3_connection_password",
            "s3_connection_verbose_logging",
            "s3_connection_use_ssl",
            "s3_connection_ssl_verify_host",
            "s3_connection_ssl_cert_file",
            "s3_connection_flavour",
            "alba_connection_host",
            "alba_connection_port",
            "alba_connection_timeout",
            "alba_connection_preset",
            "alba_connection_transport",
            "alba_connection_use_rora",
            "alba_connection_rora_manifest_cache_capacity",
            "alba_connection_asd_connection_pool_capacity",
            "alba_connection_rora_timeout_msecs",
        ],
    ),
    ("backend_garbage_collector", &["bgc_threads"]),
];

/// What of these sections nobody knows, as `section` or `section.member`, sorted: a map's own order depends on how its crate
/// was built.
pub(crate) fn unknown(sections: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, section) in sections {
        match MEMBERS.iter().find(|(known, _)| known == name) {
            Some((_, known)) => look(name, section, known, &mut found),
            None => found.push(name.clone()),
        }
    }
    found.sort();
    found
}

fn look(name: &str, section: &Value, known: &[&str], found: &mut Vec<String>) {
    for (member, value) in section.as_object().into_iter().flatten() {
        let path = format!("{name}.{member}");
        let is_numbered = name.starts_with(BACKEND) && member.parse::<u32>().is_ok() && value.is_object();
        if is_numbered {
            look(&path, value, known, found);
        } else if !known.contains(&member.as_str()) {
            found.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_known_in_their_section_only() {
        let sections = json!({
            "fuse": {"fuse_min_workers": 1, "fs_dtl_host": ""},
            "colours": {"red": 1},
            "backend_connection_manager": {"backend_type": "MULTI", "0": {"alba_connection_host": "", "hue": 1}, "x": {}},
        });
        assert_eq!(
            unknown(sections.as_object().unwrap()),
            ["backend_connection_manager.0.hue", "backend_connection_manager.x", "colours", "fuse.fs_dtl_host"]
        );
    }
}
