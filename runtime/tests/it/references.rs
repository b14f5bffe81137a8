//! Where the references do not do what the tests ask. This is the only reason for which a test, or its last part, is left out on one of them.
//! With DIFFERENCES=tested nothing is left out: so it is seen which rows a newer reference has made superfluous.

/// Where a row holds.
#[derive(Clone, Copy, PartialEq)]
enum On {
    Both,
    Crun,
    Runc,
}
use On::{Both, Crun, Runc};

/// The test, or what a part of one asks; the references that differ; what they do instead.
#[rustfmt::skip]
const DIFFERENCES: &[(&str, On, &str)] = &[
    ("an_error_inside_set_up_comes_with_its_cause", Both, "does not name what is wrong in the mount"),
    ("unsupported_fields_are_refused_by_name_before_anything_is_made", Both, "ignores some of the fields"),
    ("limits_without_a_controller_are_refused_with_the_remedy", Both, "names no remedy"),
    ("a_cgroup_with_processes_is_not_taken_over", Both, "joins it"),
    ("ids with spaces", Crun, "takes them"),
    ("an id that leads out of the folder of states", Crun, "1.8 removes by force what it leads to"),
    ("systemd_cgroup_gets_a_clear_answer", Both, "has that driver"),
    ("programs_that_cannot_be_executed_say_why", Both, "says no more than execve(2), and ends with 1"),
    ("links_that_go_round_in_the_root_are_an_error", Crun, "does not name the link"),
    ("a_damaged_state_is_named_and_deleted_by_force", Both, "does not name the file, or calls it otherwise"),
    ("paused twice", Crun, "pauses what is paused"),
    ("resumed twice", Crun, "resumes what runs"),
    ("exec_in_a_paused_container_waits_for_resume_when_told_to", Crun, "has no --ignore-paused"),
    ("exec_goes_into_a_cgroup_below_the_containers_own", Both, "does not keep the path below the container's cgroup"),
    ("the table of ps(1)", Both, "prints pids alone (crun), takes no option after the id (runc)"),
    ("remembered limits complete later ones", Both, "asks for the limits that are there already, or names another field"),
    ("update without limits is refused", Both, "does nothing"),
    ("events_print_what_is_used_and_who_ran_out_of_memory", Crun, "has no events"),
    ("features_are_the_specifications_document", Crun, "1.8 has no features"),
    ("the absolute path of the root", Crun, "gives it as config.json has it"),
    ("the heading of the list", Crun, "calls the id NAME, and has the root's path"),
    ("--debug says what was done", Both, "writes nothing more to that log"),
    ("run_keep_leaves_the_container_for_delete", Both, "has no such option in this version"),
    ("without_a_cgroup_rules_close_the_image_and_are_refused_to_who_makes_nodes", Both, "needs a cgroup"),
    ("a_mount_target_behind_a_link_stays_inside", Crun, "1.8 makes no mount point behind a link that leads nowhere"),
    ("mounting_inside_proc_is_refused", Crun, "1.8 lets a bind mount replace /proc"),
    ("the_console_is_not_put_where_a_link_leads", Both, "needs a terminal of its own for a foreground run"),
    ("kernel_parameters_are_written_to_the_real_procfs", Runc, "1.1 gives up instead"),
    ("the_runtimes_own_file_is_never_what_is_executed", Both, "executes a copy of itself, and says so in other words"),
    ("a_working_directory_through_a_leaked_descriptor_is_refused", Crun, "1.8 starts there (CVE-2024-21626)"),
    ("exchanging_a_mount_target_for_a_link_never_leads_out", Runc, "1.1 makes it where the link leads, now and then"),
    ("exchanging_the_place_of_procfs_never_leaves_its_files_unmasked", Runc, "1.1 makes it where the link leads, now and then"),
    ("overlay_on_slash_is_the_root_and_leaves_nothing_on_the_host", Both, "demands `root`"),
    ("without_a_cgroup_namespace_only_the_own_cgroup_is_seen", Both, "shows the whole tree"),
    ("clocks_of_a_time_namespace_are_ahead_by_what_is_asked_also_in_exec", Both, "has no time namespaces (runc 1.1), does not enter them in exec (crun 1.8)"),
    ("exec without a namespace to join", Both, "cannot (runc 1.1), enters no root (crun 1.8)"),
    ("mounts in the host's namespace are removed", Both, "leaves what it mounted"),
    ("a_failed_create_in_the_hosts_mount_namespace_leaves_no_mount", Both, "ends with 1, and leaves what it mounted"),
    ("the_layers_of_an_overlay_root_are_mapped_and_stay_as_they_are", Both, "demands `root`"),
    ("create_killed_at_any_system_call_leaves_nothing_that_delete_force_does_not_remove", Crun, "1.8 leaves its child behind"),
    ("creating_and_deleting_the_same_id_at_once_leaves_nothing", Crun, "1.8 fails to delete what another is deleting"),
    ("apparmorProfile by name", Both, "does not name the profile or the field"),
    ("exactly one wins", Runc, "1.1 lets all of them fail now and then"),
    ("a_killed_runtime_leaves_only_what_delete_force_removes", Both, "writes its state later"),
    ("a_container_whose_start_hooks_fail_is_ended_and_destroyed", Both, "starts it all the same"),
    ("a_container_fits_in_half_a_mebibyte", Both, "needs more"),
    ("nothing stays of a container that could not be made", Both, "leaves the cgroup"),
    ("bursts_and_idleness_reach_the_kernel", Both, "does not know bursts"),
    ("no_process_beside_the_first_is_a_limit", Both, "takes 0 for no limit, as before 1.3"),
    ("where huge pages are reserved", Both, "counts page faults"),
    ("rdma_devices_are_limited_and_unknown_ones_are_named", Both, "takes devices that are not there (crun), asks more of the field (runc)"),
    ("a_writable_cgroup_belongs_to_the_containers_user", Both, "leaves it with root"),
    ("options that change recursively", Crun, "1.8 has EINVAL of mount_setattr(2) for some"),
    ("rnosymfollow", Runc, "1.1 does not know it"),
    ("propagation_of_a_mount_is_as_asked", Crun, "1.8 makes the copy private before"),
    ("a root that is not private", Both, "leaves it private"),
    ("words that change nothing", Both, "passes some of them to the file system, which does not know them"),
    ("an_id_mapped_mount_shows_other_owners_and_changes_none", Runc, "1.1 has none"),
    ("an_id_mapped_mount_takes_the_maps_of_the_containers_user_namespace", Both, "has none (runc 1.1), does not know ridmap (crun 1.8)"),
    ("owners and modes", Crun, "1.8 leaves the tmpfs' own mode"),
    ("a_network_device_moves_with_its_addresses_and_is_on", Both, "is older than the field"),
    ("a_network_device_keeps_its_name_unless_another_is_asked_for", Both, "is older than the field"),
    ("a_network_device_that_cannot_move_stays_as_it_was", Both, "is older than the field"),
    ("a_network_device_moves_into_a_joined_namespace_too", Both, "is older than the field"),
    ("a wrong version", Runc, "1.1 reads any"),
    ("the status in each kind of hook", Both, "says `created` at createRuntime (crun), `creating` at prestart (runc)"),
    ("a_relative_cgroups_path_begins_beside_the_runtimes_own_cgroup", Crun, "begins at the root of the tree"),
    ("an_ordinary_user_limits_containers_where_a_subtree_is_delegated", Both, "puts an ordinary user's container elsewhere"),
    ("options_may_stand_before_the_id_and_after_it", Crun, "takes none after it"),
    ("the_session_keyring_is_the_containers_own_unless_told_otherwise", Crun, "calls it otherwise"),
    ("no_pivot_is_refused_with_its_reason", Both, "changes the root in the old way"),
    ("every_verb_has_help_that_names_its_options", Both, "has other words"),
    ("a raise that fails is named", Both, "calls the limit by its number (runc), or nothing more (crun)"),
    ("126 and 127", Both, "ends with 1"),
    ("the name of the architecture", Both, "names none"),
    ("--cwd and --env of exec", Crun, "1.8 prints nothing when both are given"),
    ("127 from exec", Both, "ends with 255 (runc) or 1 (crun)"),
    ("an_overlay_root_works_for_an_ordinary_user", Both, "demands `root`"),
    ("what_an_ordinary_user_cannot_have_is_refused_with_a_reason", Both, "tries, or leaves it out"),
    ("the_scheduler_is_as_asked", Both, "is older than the field"),
    ("exec_runs_on_the_processors_it_is_given_and_init_on_all", Both, "is older than the field"),
    ("the_memory_policy_is_as_asked_also_in_exec", Both, "is older than the field"),
    ("the_io_priority_is_as_asked", Both, "is older than the field"),
    ("the personality of exec", Runc, "1.1 leaves it"),
    ("the_domain_name_is_the_namespaces_own", Both, "is older than the field (runc), looks for it in another namespace (crun)"),
    ("the words of the warning", Crun, "leaves them out in silence"),
    ("status and pid in startContainer hooks", Crun, "says `starting`, and no pid"),
    ("hooks after one that has failed", Both, "runs none (runc), gives no warning (crun)"),
    ("a_filter_that_is_built_in_holds_for_the_program_and_for_exec", Both, "has none; the action is ours"),
    ("exec_has_a_notification_of_its_own", Both, "tells nobody of exec's filter, and waits for ever"),
    ("listenerPath by name", Both, "does not name the field"),
    ("a_foreground_run_passes_the_terminal_through", Both, "needs a terminal of its own"),
    ("exec_gets_a_terminal_of_its_own", Both, "needs a terminal of its own"),
    ("selinuxLabel by name", Both, "does not name the field"),
    ("exec_runs_from_a_file_that_cannot_be_written_afterwards", Runc, "1.1 copies itself in another way"),
];

/// True, and it says so, on a reference that has a row of this name.
pub fn differs(name: &str) -> bool {
    let runtime = std::env::var("RUNTIME").unwrap_or_default();
    let is_tested = std::env::var("DIFFERENCES").is_ok_and(|word| word == "tested");
    let row = DIFFERENCES.iter().find(|(row, ..)| *row == name);
    let (_, on, how) = row.unwrap_or_else(|| panic!("no difference is called {name:?}"));
    let holds = match runtime.as_str() {
        "crun" => *on != Runc,
        "runc" => *on != Crun,
        _ => false,
    };
    if holds && !is_tested {
        println!("SKIPPED: {name}: {runtime} {how}");
    }
    holds && !is_tested
}

#[test]
fn every_difference_is_asked_for_by_a_test() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        text += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    for (name, _, how) in DIFFERENCES {
        assert!(text.contains(&format!("differs({name:?})")), "{name}");
        assert!(!how.is_empty(), "{name} has no reason");
    }
    let asked = text
        .split("differs(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next());
    for name in asked.filter(|name| !name.contains('{')) {
        let is_there = DIFFERENCES.iter().any(|(row, ..)| *row == name);
        assert!(is_there || name == "\\", "no difference is called {name:?}");
    }
}
