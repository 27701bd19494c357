//! Requests to the hub: who asks, what is asked again, and what an answer means.

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use super::Repository;
use crate::exit::{Failure, Status};
use crate::progress;

/// So many attempts are made of a request that the hub may answer another time, and so many where it is not reached.
const ATTEMPTS: u32 = 6;
const UNREACHED: u32 = 3;

/// The longest pause that the hub may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The longest text of an answer that is read.
const LONGEST_TEXT: u64 = 64 << 20;

/// A connection to the hub for a repository.
pub(super) struct Client<'a> {
    pub(super) repository: &'a Repository,
    agent: Agent,
    pub(super) cancelled: &'a dyn Fn() -> bool,
}

/// A request.
pub(super) struct Request<'a> {
    pub(super) method: &'static str,
    pub(super) address: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Content<'a>,
}

/// What is sent with it.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// A part of a file: where it begins, and its length.
    File(&'a std::path::Path, u64, u64),
}

impl<'a> Request<'a> {
    pub(super) fn new(method: &'static str, address: String) -> Self {
        Self { method, address, headers: Vec::new(), body: Content::Nothing }
    }

    #[must_use]
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub(super) fn json(self, body: &'a [u8]) -> Self {
        Self { body: Content::Bytes(body), ..self.header("content-type", "application/json") }
    }
}

impl<'a> Client<'a> {
    pub(super) fn new(repository: &'a Repository, cancelled: &'a dyn Fn() -> bool) -> Self {
        let patience = repository.environment.patience;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed here: the token does not go to other hosts.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(patience))
            .timeout_recv_response(Some(patience * 3))
            .timeout_per_read(Some(patience * 3))
            .user_agent(concat!("mdt-host/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { repository, agent: config.into(), cancelled }
    }

    /// The answer to a request, whose status is a success or a redirect. What the hub cannot answer now is asked again.
    ///
    /// # Errors
    /// The hub refuses it, in words for the user; it cannot be reached; it was cancelled.
    pub(super) fn ask(&self, request: &Request<'_>) -> Result<Response<Body>, Failure> {
        let mut pause = self.repository.environment.pause;
        for attempt in 1.. {
            let (why, asked, attempts) = match self.once(request) {
                Ok(answer) => match answer.status().as_u16() {
                    200..400 => return Ok(answer),
                    status @ (408 | 429 | 500..) => {
                        (format!("the hub answers {}", in_words(status)), retry_after(answer.headers()), ATTEMPTS)
                    }
                    status => return Err(self.refused(status, answer)),
                },
                Err(error) => (format!("the hub is not reached ({error})"), None, UNREACHED),
            };
            if attempt >= attempts {
                return Err(self
                    .repository
                    .failure("the Hugging Face Hub cannot be used")
                    .because(format!("{why}, after {attempt} attempts"))
                    .help(
                        "try again later: what has come is kept. HF_ENDPOINT names another hub; HF_HUB_OFFLINE=1 uses the \
                         cache alone",
                    ));
            }
            let wait = asked.unwrap_or(pause).min(LONGEST_PAUSE);
            progress::note(&format!("{why}: trying again in {} s", wait.as_secs_f64().ceil()));
            self.wait(wait)?;
            pause *= 2;
        }
        Err(Failure::internal())
    }

    /// The JSON of an answer.
    pub(super) fn json(&self, request: &Request<'_>) -> Result<Value, Failure> {
        let text = text_of(self.ask(request)?);
        serde_json::from_slice(&text).map_err(|error| {
            self.repository.failure("the Hugging Face Hub answers what is not JSON").at(&request.address).because(error)
        })
    }

    fn once(&self, request: &Request<'_>) -> Result<Response<Body>, ureq::Error> {
        let Request { method, address, headers, body } = request;
        let mut builder = ureq::http::Request::builder().method(*method).uri(address);
        for (name, value) in headers {
            builder = builder.header(*name, value);
        }
        if let Some(token) = self.repository.environment.token.as_ref().filter(|_| self.is_hub(address)) {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        let sent = |error: std::io::Error| ureq::Error::Io(error);
        match body {
            Content::Nothing => self.agent.run(builder.body(())?),
            Content::Bytes(bytes) => self.agent.run(builder.body(*bytes)?),
            Content::File(path, start, length) => {
                use std::io::Seek;
                let mut file = std::fs::File::open(path).map_err(sent)?;
                file.seek(std::io::SeekFrom::Start(*start)).map_err(sent)?;
                let request = builder.header("content-length", length.to_string());
                self.agent.run(request.body(ureq::SendBody::from_owned_reader(file.take(*length)))?)
            }
        }
    }

    /// Whether an address is the hub's own: others never see the token.
    pub(super) fn is_hub(&self, address: &str) -> bool {
        let place = |address: &str| {
            let uri: Uri = address.parse().ok()?;
            Some((uri.scheme()?.clone(), uri.authority()?.clone()))
        };
        place(address).is_some() && place(address) == place(&self.repository.environment.endpoint)
    }

    /// The address that an answer redirects to.
    pub(super) fn redirected(&self, from: &str, headers: &HeaderMap) -> Option<String> {
        let to = header(headers, "location")?;
        if to.starts_with("http://") || to.starts_with("https://") {
            return Some(to);
        }
        let uri: Uri = from.parse().ok()?;
        Some(format!("{}://{}{to}", uri.scheme_str()?, uri.authority()?))
    }

    pub(super) fn wait(&self, time: Duration) -> Result<(), Failure> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.require_not_cancelled()?;
            thread::sleep(Duration::from_millis(50).min(time));
        }
        Ok(())
    }

    pub(super) fn require_not_cancelled(&self) -> Result<(), Failure> {
        match (self.cancelled)() {
            true => Err(Failure::new(Status::Interrupted, "interrupted while something was downloaded")
                .at(self.repository.address())
                .help("run the same command again: it goes on with what has come")),
            false => Ok(()),
        }
    }

    /// What a refusal means.
    fn refused(&self, status: u16, answer: Response<Body>) -> Failure {
        let code = header(answer.headers(), "x-error-code").unwrap_or_default();
        let said = header(answer.headers(), "x-error-message");
        let said = said.unwrap_or_else(|| {
            let text = text_of(answer);
            let json: Value = serde_json::from_slice(&text).unwrap_or_default();
            json["error"].as_str().map(str::to_owned).unwrap_or_default()
        });
        let said: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
        let repository = self.repository;
        let has_token = repository.environment.token.is_some();
        let failure = |message: &str| {
            let failure = repository.failure(message.to_owned());
            if said.is_empty() {
                failure.because(in_words(status))
            } else {
                failure.because(format!("{}: {said}", in_words(status)))
            }
        };
        let gated = || {
            let accept = format!("accept its conditions at {}", repository.address());
            failure("the repository is gated: its owner gives it to those who accept its conditions").help(
                match has_token {
                    true => format!("{accept} as the user of your token, and run the same command again"),
                    false => format!("{accept}, and set HF_TOKEN to a token of yours"),
                },
            )
        };
        match (status, code.as_str()) {
            (_, "GatedRepo") => gated(),
            (_, "RevisionNotFound") => failure(&format!("there is no revision {:?}", repository.revision))
                .help("name a branch, a tag or a commit with `model.revision`"),
            (_, "EntryNotFound") => failure("a file is not there"),
            (401, _) if has_token => failure("the hub does not accept the token, or has no such repository")
                .help("check the name; make a new token and set HF_TOKEN to it, or `hf auth login`"),
            (401, _) => failure("there is no such repository, or it is private")
                .help("check the name; for what is private or gated, set HF_TOKEN to a token of yours"),
            (403, _) => failure("your token may not do this")
                .help("make a token with more rights at the hub, and set HF_TOKEN to it"),
            (404, _) => failure("there is no such repository").help("check the name, and `model.revision`"),
            _ => failure("the Hugging Face Hub refuses the request"),
        }
    }
}

/// The text of an answer; empty where it cannot be read.
pub(super) fn text_of(answer: Response<Body>) -> Vec<u8> {
    let mut text = Vec::new();
    let _ = answer.into_body().into_reader().take(LONGEST_TEXT).read_to_end(&mut text);
    text
}

/// A header as text.
pub(super) fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    header(headers, "retry-after")?.trim().parse().ok().map(Duration::from_secs)
}

fn in_words(status: u16) -> String {
    let words = match status {
        401 => " (who are you?)",
        403 => " (forbidden)",
        404 => " (not found)",
        429 => " (too many requests)",
        500.. => " (a fault of the hub)",
        _ => "",
    };
    format!("{status}{words}")
}
