//! `launch --hostfile`: ranks on other machines over ssh. They train, stop and end as those of one machine do, and none of
//! them stays behind, whatever ends.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mdt_tests::{Job, Process, assert_says, command};

use super::sshd::Sshd;
use super::{installed, job};

/// Two hosts with one rank each.
const HOSTS: &str = "nodea slots=1\nnodeb slots=1  # the second one\n";

/// The command that starts a job on the hosts of a file.
fn launch(job: &Job, ssh: &str, hostfile: &str) -> Command {
    let mut command = command();
    command.args(["launch", "--hostfile", hostfile, "--ssh", ssh, "--env", "XDG_DATA_HOME"]).args(job.arguments());
    command.args(["--set", "comm.use=grpc"]);
    command
}

/// A job that takes seconds, and saves when it is stopped and every five updates.
fn long_job(steps: u32) -> Job {
    job(1).set("trainer.max_steps", steps).set("checkpoint.save_steps", 5)
}

/// A process: its number, its parent's, and its command line.
struct Listed {
    id: u32,
    parent: u32,
    line: String,
}

fn processes() -> Vec<Listed> {
    let output = Command::new("ps").args(["-A", "-ww", "-o", "pid=,ppid=,command="]).output().expect("the command ps");
    let listed = |line: &str| {
        let mut words = line.split_whitespace();
        let (id, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Listed { id, parent, line: words.collect::<Vec<_>>().join(" ") })
    };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(listed).collect()
}

/// The rank of a job, and the process that `ssh` has started for it.
fn rank_and_agent(job: &Job, rank: u32) -> [u32; 2] {
    let begin = Instant::now();
    loop {
        let (directory, key) = (job.output().display().to_string(), format!("comm.rank={rank}"));
        let all = processes();
        let is_rank = |listed: &&Listed| listed.line.contains(&directory) && listed.line.contains(&key);
        if let Some(rank) = all.iter().find(is_rank) {
            assert!(all.iter().any(|agent| agent.id == rank.parent && agent.line.ends_with("launched-rank")));
            return [rank.id, rank.parent];
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "the rank does not run");
        sleep(Duration::from_millis(20));
    }
}

/// The `ssh` of a host that a launcher has started.
fn ssh_to(launcher: &Process, host: &str) -> u32 {
    let is_ssh = |listed: &&Listed| {
        listed.parent == launcher.id()
            && listed.line.starts_with("ssh ")
            && listed.line.contains(&format!("-- {host} "))
    };
    processes().iter().find(is_ssh).expect("the ssh runs").id
}

fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(status.expect("the command kill").success());
}

/// Waits until none of these processes runs any more.
fn assert_end(ids: &[u32]) {
    let begin = Instant::now();
    while processes().iter().any(|listed| ids.contains(&listed.id) && !listed.line.contains("<defunct>")) {
        assert!(begin.elapsed() < Duration::from_secs(30), "a process stays behind");
        sleep(Duration::from_millis(20));
    }
}

fn assert_same(straight: &Job, job: &Job) {
    assert_eq!(straight.unmeasured(), job.unmeasured());
    assert!(straight.final_weights() == job.final_weights(), "the final model");
}

/// A server that both hosts of [`HOSTS`] are reached at, and the file that names them, where one is installed.
fn two_hosts() -> Option<(Sshd, String)> {
    installed("sshd").then(|| {
        let sshd = Sshd::start();
        let hostfile = sshd.file("hosts", HOSTS);
        (sshd, hostfile)
    })
}

#[test]
fn ranks_on_two_hosts_train_to_the_bits_of_one_process() {
    if !installed("sshd") {
        return;
    }
    let sshd = Sshd::start();
    let straight = job(2);
    straight.run().success();
    let json = r#"[{"ssh": "nodea", "ips": ["127.0.0.1"]}, {"ssh": "nodeb", "ips": ["127.0.0.1"]}]"#;
    for (form, hosts, says) in [
        ("lines", HOSTS, "2 ranks on nodea (1), nodeb (1) over grpc at 127.0.0.1:"),
        ("json", json, "2 ranks on nodea (1), nodeb (1)"),
        ("mixed", "localhost\nnodeb slots=4", "2 ranks on localhost (1), nodeb (1)"),
    ] {
        let job = job(1).argument("-n").argument("2");
        let hostfile = sshd.file(form, hosts);
        let ended = Process::start(&mut launch(&job, &sshd.command(), &hostfile)).end().success();
        assert_says(&ended.stderr, &[says]);
        assert_same(&straight, &job);
    }
}

#[test]
fn an_interrupt_saves_on_all_hosts_and_a_killed_rank_is_named_with_its_host_and_started_again() {
    let Some((sshd, hostfile)) = two_hosts() else { return };
    let straight = job(2).set("trainer.max_steps", 150);
    straight.run().success();
    let job = long_job(150);
    let mut launcher = Process::start(&mut launch(&job, &sshd.command(), &hostfile));
    launcher.wait_until(|| job.lines_so_far() >= 12);
    launcher.signal("INT");
    let ended = launcher.end();
    assert_eq!(ended.status, Some(130), "{}", ended.stderr);
    assert!(job.checkpoint(job.lines_so_far() as u64).join("manifest.json").exists());

    let mut again = launch(&job, &sshd.command(), &hostfile);
    let mut launcher = Process::start(again.args(["--max-restarts", "1"]));
    let begun = job.lines_so_far();
    launcher.wait_until(|| job.lines_so_far() >= begun + 12);
    let [rank, agent] = rank_and_agent(&job, 1);
    signal(rank, "KILL");
    let ended = launcher.end().success();
    assert_says(&ended.stderr, &["restart  1 of 1 in 1 s: rank 1 on nodeb was killed by SIGKILL"]);
    assert_end(&[rank, agent]);
    assert_same(&straight, &job);
}

#[test]
fn a_job_goes_on_after_the_way_to_its_first_rank_was_lost() {
    let Some((sshd, hostfile)) = two_hosts() else { return };
    let straight = job(2).set("trainer.max_steps", 150);
    straight.run().success();
    let job = long_job(150);
    let mut launched = launch(&job, &sshd.command(), &hostfile);
    let mut launcher = Process::start(launched.args(["--max-restarts", "1"]));
    launcher.wait_until(|| job.lines_so_far() >= 7);
    let [rank, agent] = rank_and_agent(&job, 0);
    // The rank does not know, goes on for a moment and saves; the next one waits for that.
    signal(ssh_to(&launcher, "nodea"), "KILL");
    let ended = launcher.end().success();
    assert_says(&ended.stderr, &["restart  1 of 1 in 1 s: rank 0 on nodea was lost", "resuming from"]);
    assert_end(&[rank, agent]);
    assert_same(&straight, &job);
}

#[test]
fn a_second_interrupt_ends_all_hosts_at_once() {
    let Some((sshd, hostfile)) = two_hosts() else { return };
    let job = long_job(5000);
    let mut launcher = Process::start(&mut launch(&job, &sshd.command(), &hostfile));
    launcher.wait_until(|| job.lines_so_far() >= 3);
    let all = [rank_and_agent(&job, 0), rank_and_agent(&job, 1)].concat();
    signal(all[2], "STOP"); // so that no rank can stop after its update
    launcher.signal("INT");
    sleep(Duration::from_millis(1100));
    assert!(launcher.runs());
    launcher.signal("INT");
    let begin = Instant::now();
    let ended = launcher.end();
    assert!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    assert_says(&ended.stderr, &["stopped at once by a second signal"]);
    assert_end(&all);
}

#[test]
fn no_process_stays_behind_whichever_ends() {
    let Some((sshd, hostfile)) = two_hosts() else { return };
    for victim in ["launcher", "ssh", "agent", "stopped rank"] {
        let job = long_job(5000);
        let mut launcher = Process::start(&mut launch(&job, &sshd.command(), &hostfile));
        launcher.wait_until(|| job.lines_so_far() >= 7);
        let all = [rank_and_agent(&job, 0), rank_and_agent(&job, 1)].concat();
        match victim {
            "launcher" => launcher.kill(),
            "ssh" => signal(ssh_to(&launcher, "nodeb"), "KILL"),
            "agent" => signal(all[3], "KILL"),
            _ => signal(all[2], "STOP"),
        }
        let ended = launcher.end();
        let said: &[&str] = match victim {
            "launcher" => &[],
            "ssh" => &["rank 1 on nodeb was lost: its ssh was ended by SIGKILL"],
            "agent" => &["rank 1 on nodeb"],
            _ => &["rank 1 on nodeb was stopped"],
        };
        assert_says(&ended.stderr, said);
        assert_eq!(ended.status, (victim != "launcher").then_some(5), "{victim}: {}", ended.stderr);
        assert_end(&all);
    }
}

#[test]
fn a_host_out_of_reach_and_a_program_or_a_directory_that_is_not_there_are_named() {
    let Some((sshd, hostfile)) = two_hosts() else { return };
    let ended = |arguments: &[&str], hosts: &str| {
        let job = job(1);
        let ended = Process::start(launch(&job, &sshd.command(), hosts).args(arguments)).end();
        (ended.status, ended.stderr)
    };
    let (status, said) = ended(&[], &sshd.file("gone", "nodea\ngone\n"));
    assert_eq!(status, Some(5), "{said}");
    assert_says(&said, &["[rank 1] ssh: connect to host 127.0.0.1 port 1", "rank 1 on gone was lost: ssh has failed"]);
    let (status, said) = ended(&["--remote-program", "/no/such/mdt-host"], &hostfile);
    assert_eq!(status, Some(1), "{said}");
    assert_says(&said, &["mdt-host is not there", "--remote-program"]);
    let (status, said) = ended(&["--remote-directory", "/no/such/directory"], &hostfile);
    assert_eq!(status, Some(2), "{said}");
    assert_says(&said, &["/no/such/directory", "--remote-directory"]);
    let (status, said) = ended(&["-n", "3"], &hostfile);
    assert_eq!(status, Some(2), "{said}");
    assert_says(&said, &["3 ranks need a slot each, and the hostfile has 2"]);
    assert!(sshd.directory().exists());
}

#[test]
fn the_token_is_on_no_command_line() {
    // A stand-in for ssh that keeps its command line, and runs the command here.
    let job = job(1).argument("-n").argument("2");
    let script = "#!/bin/sh\nfor word; do echo \"$word\" >> \"$0.words\"; last=$word; done\n\
                  [ \"$1\" = -G ] && echo hostname 127.0.0.1 && exit\nexec sh -c \"$last\"\n";
    let ssh = job.file("ssh", script);
    std::fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permissions");
    let hostfile = job.file("hosts", "far slots=2").display().to_string();
    let ended = Process::start(&mut launch(&job, &ssh.display().to_string(), &hostfile)).end().success();
    assert_says(&ended.stderr, &["2 ranks on far (2)"]);
    let words = std::fs::read_to_string(ssh.with_extension("words")).expect("what ssh was called with");
    assert_says(&words, &["BatchMode=yes", "launched-rank"]);
    let is_secret = |word: &str| word.chars().filter(char::is_ascii_hexdigit).count() >= 32;
    assert!(!words.split_whitespace().any(|word| is_secret(word) && !word.contains('/')), "{words}");
}
