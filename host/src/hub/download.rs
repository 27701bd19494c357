//! Downloads: what a repository has, and each file that is wanted, from where an earlier attempt stopped.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::client::{Client, Request, header};
use super::{Repository, Wanted};
use crate::checksum;
use crate::exit::Failure;
use crate::progress;

/// Attempts that bring nothing new, after which a file is given up.
const ATTEMPTS: u32 = 6;

/// What comes at a time.
const BLOCK: usize = 1 << 18;

/// How often progress is shown.
const SHOWN_EVERY: Duration = Duration::from_secs(5);

/// A file as the hub describes it.
struct Described {
    /// Where it is downloaded from.
    address: String,
    /// Its checksum: a sha256, or that of git.
    etag: String,
    size: u64,
}

/// A repository's directory with all files that are wanted.
pub(super) fn snapshot(
    repository: &Repository,
    wanted: &Wanted<'_>,
    cancelled: &dyn Fn() -> bool,
) -> Result<PathBuf, Failure> {
    if let Some(cached) = repository.cached(wanted)? {
        return Ok(cached);
    }
    let client = Client::new(repository, cancelled);
    if repository.environment.offline {
        let whole = repository.perhaps_whole().filter(|_| matches!(wanted, Wanted::Those(_)));
        return whole.ok_or_else(|| not_cached(repository));
    }
    let lock = repository.lock_file("mdt-snapshot")?;
    wait_for(&lock, &client)?;
    // Another process may have downloaded it meanwhile.
    if let Some(cached) = repository.cached(wanted)? {
        return Ok(cached);
    }
    let (commit, files) = contents(&client)?;
    repository.set_listing(&commit, &files)?;
    let names = wanted.of(&files);
    let place = repository.snapshot(&commit);
    let missing: Vec<&str> = names.iter().copied().filter(|name| !place.join(name).is_file()).collect();
    if names.is_empty() {
        return Err(repository.failure("the repository has none of the files that are needed"));
    }
    progress::note(&format!(
        "downloading {} of {} ({commit})",
        crate::counted::counted(missing.len(), "file"),
        repository.name
    ));
    for name in missing {
        download(&client, &commit, name)?;
    }
    // Last, so that the revision names what is whole.
    repository.set_commit(&commit)?;
    Ok(place)
}

/// The names of all files of a repository. Where the hub is not asked, those of another program's snapshot are all that there are.
pub(super) fn files(repository: &Repository, cancelled: &dyn Fn() -> bool) -> Result<Vec<String>, Failure> {
    if let Some(files) = repository.known_commit().and_then(|commit| repository.listing(&commit)) {
        return Ok(files);
    }
    if repository.environment.offline {
        return repository.perhaps_whole().map(|snapshot| files_in(&snapshot)).ok_or_else(|| not_cached(repository));
    }
    let (commit, files) = contents(&Client::new(repository, cancelled))?;
    repository.set_listing(&commit, &files)?;
    Ok(files)
}

/// The paths of all files below a directory, relative to it.
fn files_in(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.path() {
            path if path.is_dir() => files.extend(files_in(&path).iter().map(|below| format!("{name}/{below}"))),
            _ => files.push(name),
        }
    }
    files.sort();
    files
}

fn not_cached(repository: &Repository) -> Failure {
    repository
        .failure("the cache does not have all files that are needed, and HF_HUB_OFFLINE is set")
        .at(repository.place().display())
        .help("unset HF_HUB_OFFLINE, or copy the cache of a machine that has them; HF_HUB_CACHE names another place")
}

/// Waits until this process alone has a lock.
fn wait_for(lock: &File, client: &Client<'_>) -> Result<(), Failure> {
    let mut is_told = false;
    loop {
        match lock.try_lock() {
            // Some network file systems have no locks; each file is renamed into place anyway.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(()),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut is_told, true) {
                    progress::note(&format!(
                        "another process is downloading {}: waiting for it",
                        client.repository.name
                    ));
                }
                client.wait(Duration::from_millis(200))?;
            }
        }
    }
}

/// The commit of the revision, and the names of all its files.
fn contents(client: &Client<'_>) -> Result<(String, Vec<String>), Failure> {
    let Repository { environment, kind, name, revision, .. } = client.repository;
    let revision = revision.replace('/', "%2F");
    let address = format!("{}/api/{}/{name}/revision/{revision}", environment.endpoint, kind.name());
    let answer = client.json(&Request::new("GET", address))?;
    let files = answer["siblings"].as_array().into_iter().flatten();
    let files = files.filter_map(|file| file["rfilename"].as_str().map(str::to_owned)).collect();
    match answer["sha"].as_str().filter(|sha| sha.len() == 40 && sha.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        Some(sha) => Ok((sha.to_owned(), files)),
        None => Err(client.repository.failure("the Hugging Face Hub does not say which commit a revision is")),
    }
}

/// Downloads a file of a commit and gives it its name.
fn download(client: &Client<'_>, commit: &str, name: &str) -> Result<(), Failure> {
    let described = describe(client, commit, name)?;
    let repository = client.repository;
    let Described { etag, size, .. } = &described;
    let lock = repository.lock_file(etag)?;
    wait_for(&lock, client)?;
    let blob = repository.blob(etag);
    if !fs::metadata(&blob).is_ok_and(|blob| blob.len() == *size) {
        let incomplete = repository.blob(&format!("{etag}.incomplete"));
        let damaged = || repository.failure("what the hub sent is damaged").at(name);
        for attempt in 1.. {
            fetch(client, commit, name, &described, &incomplete)?;
            let found = sum_of(&incomplete, etag).map_err(|error| repository.unwritable(&incomplete, &error))?;
            if found == *etag {
                break;
            }
            fs::remove_file(&incomplete).map_err(|error| repository.unwritable(&incomplete, &error))?;
            if attempt == 2 {
                return Err(damaged()
                    .because(format!("its checksum is {found}, the hub says {etag}"))
                    .help("nothing of it is kept. Try again; if it stays so, tell the owner of the repository"));
            }
            progress::note(&format!(
                "warning: {name} came with another checksum than the hub says: downloading it again"
            ));
        }
        let publish = || {
            File::open(&incomplete)?.sync_all()?;
            fs::rename(&incomplete, &blob)
        };
        publish().map_err(|error| repository.unwritable(&blob, &error))?;
    }
    repository.link(commit, name, etag)
}

/// Asks the hub for a file without its content.
fn describe(client: &Client<'_>, commit: &str, name: &str) -> Result<Described, Failure> {
    let repository = client.repository;
    let kind = if repository.kind == super::Kind::Dataset { "datasets/" } else { "" };
    let path: Vec<String> = name.split('/').map(encoded).collect();
    let mut address =
        format!("{}/{kind}{}/resolve/{commit}/{}", repository.environment.endpoint, repository.name, path.join("/"));
    for _ in 0..5 {
        let answer = client.ask(&Request::new("HEAD", address.clone()).header("accept-encoding", "identity"))?;
        let headers = answer.headers();
        let to = answer.status().is_redirection().then(|| client.redirected(&address, headers)).flatten();
        let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        let size = header(headers, "x-linked-size").or_else(|| header(headers, "content-length"));
        match (to, etag, size.and_then(|size| size.parse().ok())) {
            // A repository that was renamed: its new name is on the same host.
            (Some(to), _, _) if client.is_hub(&to) && header(headers, "x-linked-etag").is_none() => address = to,
            (to, Some(etag), Some(size)) if is_sum(&etag) => {
                return Ok(Described { address: to.unwrap_or(address), etag, size });
            }
            _ => {
                let failure = repository.failure("the hub does not say the checksum and the size of a file");
                return Err(failure.at(name));
            }
        }
    }
    Err(repository.failure("the hub redirects again and again").at(name))
}

/// Whether an etag is a sha256 or a sha1: it is a name of a file in the cache, too.
fn is_sum(etag: &str) -> bool {
    matches!(etag.len(), 40 | 64) && etag.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}

/// Appends to a file what is missing of it.
fn fetch(client: &Client<'_>, commit: &str, name: &str, first: &Described, to: &Path) -> Result<(), Failure> {
    let repository = client.repository;
    let unwritable = |error: io::Error| repository.unwritable(to, &error);
    let mut file = repository
        .room_for(to)
        .and_then(|()| File::options().create(true).truncate(false).read(true).write(true).open(to));
    let file = file.as_mut().map_err(|error| repository.unwritable(to, error))?;
    let mut have = file.metadata().map_err(unwritable)?.len();
    if have > first.size {
        file.set_len(0).map_err(unwritable)?;
        have = 0;
    }
    let mut shown = Shown::new(name, first.size, have);
    let (mut in_vain, mut address) = (0, first.address.clone());
    while have < first.size {
        client.require_not_cancelled()?;
        let mut request = Request::new("GET", address.clone()).header("accept-encoding", "identity");
        if have > 0 {
            request = request.header("range", format!("bytes={have}-"));
        }
        let answer = client.ask(&request)?;
        if let Some(to) = client.redirected(&address, answer.headers()).filter(|_| answer.status().is_redirection()) {
            address = to;
            in_vain += 1;
        } else {
            // One that does not know where to go on begins again.
            let begins = header(answer.headers(), "content-range")
                .is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
            if have > 0 && (answer.status().as_u16() != 206 || !begins) {
                file.set_len(0).map_err(unwritable)?;
                have = 0;
            }
            file.seek(SeekFrom::Start(have)).map_err(unwritable)?;
            let came = receive(client, answer.into_body().into_reader(), |block| {
                let rest = (first.size - have).min(block.len() as u64) as usize;
                file.write_all(&block[..rest]).map_err(unwritable)?;
                have += rest as u64;
                shown.show(have);
                Ok(have < first.size)
            })?;
            in_vain = if came { 0 } else { in_vain + 1 };
            if have < first.size {
                progress::note(&format!("{name} broke off after {have} of {} bytes: going on from there", first.size));
                client.wait(repository.environment.pause * 2_u32.pow(in_vain.min(5)) / 2)?;
                // Addresses of storage expire.
                address = describe(client, commit, name)?.address;
            }
        }
        if in_vain >= ATTEMPTS {
            return Err(repository
                .failure("a download does not get on")
                .at(name)
                .because(format!(
                    "{have} of {} bytes have come, and {in_vain} attempts brought nothing more",
                    first.size
                ))
                .help("run the same command again later: it goes on from there"));
        }
    }
    file.sync_all().map_err(unwritable)
}

/// Gives what comes to `take`, until that has enough, nothing more comes, or nothing comes for too long. Whether anything came.
fn receive(
    client: &Client<'_>,
    mut from: impl Read + Send + 'static,
    mut take: impl FnMut(&[u8]) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(4);
    // A read has no end of its own. A thread that is left behind ends with its connection, or with the process.
    thread::spawn(move || {
        loop {
            let mut block = vec![0; BLOCK];
            match from.read(&mut block) {
                Ok(count) if count > 0 => {
                    block.truncate(count);
                    if sender.send(block).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    });
    let (mut came, mut last) = (false, Instant::now());
    loop {
        client.require_not_cancelled()?;
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(block) => {
                (came, last) = (true, Instant::now());
                if !take(&block)? {
                    return Ok(came);
                }
            }
            Err(RecvTimeoutError::Timeout) if last.elapsed() < client.repository.environment.patience => {}
            Err(_) => return Ok(came),
        }
    }
}

/// The checksum of a file, of the kind that its etag is.
fn sum_of(path: &Path, etag: &str) -> io::Result<String> {
    if etag.len() == 64 {
        return checksum_with(path, Sha256::new());
    }
    // What git names a file by.
    let mut digest = Sha1::new();
    digest.update(format!("blob {}\0", fs::metadata(path)?.len()));
    checksum_with(path, digest)
}

fn checksum_with(path: &Path, mut digest: impl Digest) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(checksum::hexadecimal(&digest.finalize())),
            count => digest.update(&block[..count]),
        }
    }
}

/// A part of a path as addresses have it.
fn encoded(part: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    part.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Shows how far a large file has come.
struct Shown<'a> {
    name: &'a str,
    size: u64,
    begin: (Instant, u64),
    last: Instant,
}

impl<'a> Shown<'a> {
    fn new(name: &'a str, size: u64, have: u64) -> Self {
        Self { name, size, begin: (Instant::now(), have), last: Instant::now() }
    }

    fn show(&mut self, have: u64) {
        if self.last.elapsed() < SHOWN_EVERY {
            return;
        }
        self.last = Instant::now();
        let (begin, before) = self.begin;
        let speed = (have - before) as f64 / begin.elapsed().as_secs_f64() / 1e6;
        let (share, gigabytes) = (100.0 * have as f64 / self.size as f64, self.size as f64 / 1e9);
        progress::note(&format!("{}: {share:.0} % of {gigabytes:.2} GB, {speed:.1} MB/s", self.name));
    }
}
