//! Uploads: a directory as one commit of a repository, which is made where there is none. Large files go to the hub's storage first,
//! so that the commit is whole or not there.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::Repository;
use super::client::{Client, Content, Request, header, text_of};
use crate::checksum;
use crate::exit::{Failure, Status};
use crate::progress;

/// The hub decides by the beginning of a file how it is stored.
const SAMPLE: usize = 512;

/// A file to upload.
struct Upload {
    /// Its name in the repository.
    name: String,
    path: PathBuf,
    size: u64,
    sha256: String,
}

/// Uploads the files of a directory to a repository in one commit, and returns the commit's address.
///
/// # Errors
/// There is no token, or it may not do this; the directory has no files; the hub cannot be reached.
pub fn push(
    repository: &Repository,
    directory: &Path,
    private: bool,
    message: &str,
    cancelled: &dyn Fn() -> bool,
) -> Result<String, Failure> {
    if repository.environment.token.is_none() {
        return Err(Failure::configuration("the hub does not know who you are")
            .help("set HF_TOKEN to a token of yours that may write, or run `hf auth login`"));
    }
    if repository.environment.offline {
        return Err(Failure::configuration("HF_HUB_OFFLINE is set, and nothing is sent then").help("unset it"));
    }
    let client = Client::new(repository, cancelled);
    let uploads = uploads(directory)?;
    create(&client, private)?;
    let modes = modes(&client, &uploads)?;
    let is_large = |upload: &&Upload| modes.iter().any(|(name, mode)| *name == upload.name && mode == "lfs");
    let (large, small): (Vec<&Upload>, Vec<&Upload>) = uploads.iter().partition(is_large);
    send_large(&client, &large)?;
    commit(&client, &large, &small, message)
}

/// All files of a directory but hidden ones.
fn uploads(directory: &Path) -> Result<Vec<Upload>, Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        Failure::new(Status::Input, "what is to be uploaded cannot be read").at(path.display()).because(error)
    };
    let (mut uploads, mut places) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(place) = places.pop() {
        for entry in fs::read_dir(&place).map_err(|error| failed(&place, error))? {
            let path = entry.map_err(|error| failed(&place, error))?.path();
            if path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.')) {
                continue;
            }
            let metadata = fs::symlink_metadata(&path).map_err(|error| failed(&path, error))?;
            if metadata.is_dir() {
                places.push(path);
            } else if metadata.is_file() {
                let name = path.strip_prefix(directory).unwrap_or(&path).to_string_lossy().into_owned();
                let sha256 = checksum::of_file(&path).map_err(|error| failed(&path, error))?;
                uploads.push(Upload { name, size: metadata.len(), sha256, path });
            } else {
                return Err(failed(&path, std::io::Error::other("it is a link or no regular file")));
            }
        }
    }
    uploads.sort_by(|one, other| one.name.cmp(&other.name));
    match uploads.is_empty() {
        true => Err(Failure::new(Status::Input, "there is nothing to upload").at(directory.display())),
        false => Ok(uploads),
    }
}

/// Makes the repository, unless there is one.
fn create(client: &Client<'_>, private: bool) -> Result<(), Failure> {
    let Repository { environment, name, .. } = client.repository;
    let (organization, repository) = name.split_once('/').unwrap_or_default();
    let about = client.json(&Request::new("GET", format!("{}/api/models/{name}", environment.endpoint)));
    if about.is_ok() {
        return Ok(());
    }
    let user = client.json(&Request::new("GET", format!("{}/api/whoami-v2", environment.endpoint)))?;
    let mut wish = json!({ "name": repository, "type": "model", "private": private });
    if user["name"] != organization {
        wish["organization"] = json!(organization);
    }
    let body = wish.to_string();
    client.json(&Request::new("POST", format!("{}/api/repos/create", environment.endpoint)).json(body.as_bytes()))?;
    progress::note(&format!("made the repository {name}"));
    Ok(())
}

/// How each file is stored: `lfs` or `regular`.
fn modes(client: &Client<'_>, uploads: &[Upload]) -> Result<Vec<(String, String)>, Failure> {
    let sample = |upload: &Upload| {
        use std::io::Read;
        let mut sample = Vec::new();
        let file = fs::File::open(&upload.path).map(|file| file.take(SAMPLE as u64));
        let _ = file.and_then(|mut file| file.read_to_end(&mut sample));
        json!({ "path": upload.name, "size": upload.size, "sample": BASE64.encode(sample) })
    };
    let body = json!({ "files": uploads.iter().map(sample).collect::<Vec<_>>() }).to_string();
    let answer = client.json(&Request::new("POST", of_revision(client, "preupload")).json(body.as_bytes()))?;
    let files = answer["files"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(files.map(|file| (text(&file["path"]), text(&file["uploadMode"]))).collect())
}

fn of_revision(client: &Client<'_>, what: &str) -> String {
    let Repository { environment, name, revision, .. } = client.repository;
    format!("{}/api/models/{name}/{what}/{}", environment.endpoint, revision.replace('/', "%2F"))
}

/// Sends large files to where the hub wants them; those that it has already are not sent again.
fn send_large(client: &Client<'_>, uploads: &[&Upload]) -> Result<(), Failure> {
    if uploads.is_empty() {
        return Ok(());
    }
    let repository = client.repository;
    let address = format!("{}/{}.git/info/lfs/objects/batch", repository.environment.endpoint, repository.name);
    let objects: Vec<_> = uploads.iter().map(|upload| json!({ "oid": upload.sha256, "size": upload.size })).collect();
    let body = json!({
        "operation": "upload", "transfers": ["basic", "multipart"], "objects": objects, "hash_algo": "sha256",
        "ref": { "name": repository.revision },
    })
    .to_string();
    let request = Request::new("POST", address)
        .header("accept", "application/vnd.git-lfs+json")
        .header("content-type", "application/vnd.git-lfs+json");
    let answer = client.json(&Request { body: Content::Bytes(body.as_bytes()), ..request })?;
    for object in answer["objects"].as_array().into_iter().flatten() {
        let Some(upload) = uploads.iter().find(|upload| object["oid"] == *upload.sha256) else { continue };
        if let Some(error) = object["error"]["message"].as_str() {
            return Err(repository.failure("the hub does not take a file").at(&upload.name).because(error));
        }
        let actions = &object["actions"];
        if actions["upload"].is_null() {
            continue;
        }
        progress::note(&format!("sending {} ({:.2} GB)", upload.name, upload.size as f64 / 1e9));
        send(client, upload, &actions["upload"])?;
        if let Some(verify) = actions["verify"]["href"].as_str() {
            let body = json!({ "oid": upload.sha256, "size": upload.size }).to_string();
            let request = with_headers(Request::new("POST", verify.to_owned()), &actions["verify"]["header"]);
            client.ask(&request.json(body.as_bytes()))?;
        }
    }
    Ok(())
}

/// Sends a file, in one request or in parts.
fn send(client: &Client<'_>, upload: &Upload, action: &Value) -> Result<(), Failure> {
    let href = action["href"].as_str().unwrap_or_default().to_owned();
    let file = |start: u64, length: u64| Content::File(&upload.path, start, length);
    let part_size = action["header"]["chunk_size"].as_str().and_then(|size| size.parse::<u64>().ok());
    let part_size = part_size.or_else(|| action["header"]["chunk_size"].as_u64()).filter(|size| *size > 0);
    let Some(part_size) = part_size else {
        let request = with_headers(Request::new("PUT", href), &action["header"]);
        return client.ask(&Request { body: file(0, upload.size), ..request }).map(drop);
    };
    let mut parts = Vec::new();
    for (number, start) in (1..).zip((0..upload.size).step_by(part_size as usize)) {
        // The addresses of parts are under their numbers, which may have zeros before them.
        let address = action["header"].as_object().into_iter().flatten().find_map(|(key, address)| {
            (key.parse::<u64>().ok()? == number).then(|| address.as_str().map(str::to_owned)).flatten()
        });
        let missing = || client.repository.failure("the hub does not say where a part of a file goes").at(&upload.name);
        let request = Request::new("PUT", address.ok_or_else(missing)?);
        let answer = client.ask(&Request { body: file(start, part_size.min(upload.size - start)), ..request })?;
        parts.push(json!({ "partNumber": number, "etag": header(answer.headers(), "etag").unwrap_or_default() }));
    }
    let body = json!({ "oid": upload.sha256, "parts": parts }).to_string();
    let request = Request::new("POST", href).header("accept", "application/vnd.git-lfs+json");
    client.ask(&request.json(body.as_bytes())).map(drop)
}

fn with_headers<'a>(mut request: Request<'a>, headers: &Value) -> Request<'a> {
    const PASSED: [&str; 3] = ["authorization", "x-amz-content-sha256", "x-amz-tagging"];
    for (name, value) in headers.as_object().into_iter().flatten() {
        if let (Some(name), Some(value)) =
            (PASSED.iter().find(|known| name.eq_ignore_ascii_case(known)), value.as_str())
        {
            request = request.header(name, value);
        }
    }
    request
}

/// The commit, with small files in it.
fn commit(client: &Client<'_>, large: &[&Upload], small: &[&Upload], message: &str) -> Result<String, Failure> {
    let mut lines = vec![json!({ "key": "header", "value": { "summary": message, "description": "" } })];
    for Upload { name, path, .. } in small {
        let content = fs::read(path).map_err(|error| {
            Failure::new(Status::Input, "what is to be uploaded cannot be read").at(path.display()).because(error)
        })?;
        lines.push(json!({
            "key": "file", "value": { "content": BASE64.encode(content), "path": name, "encoding": "base64" },
        }));
    }
    for Upload { name, size, sha256, .. } in large {
        lines.push(json!({
            "key": "lfsFile", "value": { "path": name, "algo": "sha256", "oid": sha256, "size": size },
        }));
    }
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let request = Request::new("POST", of_revision(client, "commit")).header("content-type", "application/x-ndjson");
    let answer = client.ask(&Request { body: Content::Bytes(body.as_bytes()), ..request })?;
    let answer: Value = serde_json::from_slice(&text_of(answer)).unwrap_or_default();
    Ok(answer["commitUrl"].as_str().map_or_else(|| client.repository.address(), str::to_owned))
}
