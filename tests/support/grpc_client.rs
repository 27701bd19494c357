//! A gRPC client that knows nothing of what it calls: it asks the server for descriptions, as grpcurl does.

use bytes::{Buf, BufMut};
use prost_reflect::{DescriptorPool, DynamicMessage};
use tokio::runtime::Runtime;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

/// A connection with a server.
pub struct Client {
    runtime: Runtime,
    channel: Channel,
    authorization: Option<String>,
}

impl Client {
    /// Connects with the server at a port of this machine. `token` is shown with every request.
    pub fn connect(port: u16, token: Option<&str>) -> Self {
        Self::try_connect(port, token).expect("the server listens")
    }

    /// The same, if the server listens.
    pub fn try_connect(port: u16, token: Option<&str>) -> Option<Self> {
        let runtime = runtime();
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("an address");
        let channel = runtime.block_on(endpoint.connect()).ok()?;
        Some(Self::over(runtime, channel, token))
    }

    /// The same over a connection that there is.
    pub fn over(runtime: Runtime, channel: Channel, token: Option<&str>) -> Self {
        Self { runtime, channel, authorization: token.map(|token| format!("Bearer {token}")) }
    }

    /// The names of the services.
    ///
    /// # Errors
    /// The server's status.
    pub fn services(&self) -> Result<Vec<String>, Status> {
        match self.ask(MessageRequest::ListServices(String::new()))? {
            MessageResponse::ListServicesResponse(list) => {
                Ok(list.service.into_iter().map(|service| service.name).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Calls a method with an empty message.
    ///
    /// # Errors
    /// The server's status.
    pub fn call(&self, service: &str, method: &str) -> Result<DynamicMessage, Status> {
        let MessageResponse::FileDescriptorResponse(files) =
            self.ask(MessageRequest::FileContainingSymbol(service.to_owned()))?
        else {
            panic!("no description of {service}");
        };
        let mut pool = DescriptorPool::new();
        for file in files.file_descriptor_proto {
            pool.decode_file_descriptor_proto(file.as_slice()).expect("a description");
        }
        let described = pool.get_service_by_name(service).expect("the service");
        let answer = described.methods().find(|found| found.name() == method).expect("the method").output();
        let path = PathAndQuery::try_from(format!("/{service}/{method}")).expect("a path");
        let bytes = self.runtime.block_on(async {
            let mut grpc = tonic::client::Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            grpc.unary(self.request(Vec::new()), path, Raw).await.map(tonic::Response::into_inner)
        })?;
        Ok(DynamicMessage::decode(answer, bytes.as_slice()).expect("an answer of the described type"))
    }

    fn ask(&self, question: MessageRequest) -> Result<MessageResponse, Status> {
        let question = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let answer: ServerReflectionResponse = self.runtime.block_on(async {
            let mut client = ServerReflectionClient::new(self.channel.clone());
            let request = self.request(tokio_stream::once(question));
            let mut answers = client.server_reflection_info(request).await?.into_inner();
            answers.message().await?.ok_or_else(|| Status::internal("no answer"))
        })?;
        Ok(answer.message_response.expect("a response"))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.parse().expect("letters"));
        }
        request
    }
}

/// What a client runs in.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread")
}

/// Messages as bytes.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}
