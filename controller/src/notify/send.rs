//! The ways in which a notice leaves.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::authentication::Credentials,
};
use serde_json::{Value, json};

use super::{
    message::{self, Message, STANDARD, escaped, plain},
    target::{Kind, Target},
};

/// Longest for one delivery.
const LONGEST: Duration = Duration::from_secs(10);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// It may have been delivered all the same: the other end had it, and did not say that it took it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unconfirmed(String);

fn unconfirmed(why: impl ToString) -> Error {
    Unconfirmed(why.to_string()).into()
}

/// Whether something can be sent to a target, as far as can be seen before there is anything to tell.
///
/// # Errors
/// With what is wrong, to be read behind the target's name.
pub fn usable(target: &Target) -> Result<(), String> {
    let schemes = match target.kind {
        Kind::Smtp => ["smtp", "smtps"],
        Kind::Webhook | Kind::Slack | Kind::Alertmanager => ["http", "https"],
    };
    let url = target.url.parse::<http::Uri>().ok();
    let known = |url: &http::Uri| {
        url.scheme_str().is_some_and(|scheme| schemes.contains(&scheme))
            && url.host().is_some_and(|host| !host.is_empty())
    };
    // It may hold a password, so that it is not shown.
    if !url.as_ref().is_some_and(known) {
        let [plain, secure] = schemes;
        return Err(format!("url is no {plain}:// or {secure}:// with the name of a host"));
    }
    if target.kind == Kind::Smtp {
        let from = target.from.as_deref().ok_or("mail needs from")?;
        let to = target.to.iter().map(String::as_str);
        if target.to.is_empty() {
            return Err("mail needs to".to_owned());
        }
        for address in std::iter::once(from).chain(to) {
            let parsed = address.parse::<Mailbox>();
            parsed.map_err(|e| format!("\"{address}\" is no address of mail: {e}"))?;
        }
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&target.url);
        transport.map_err(|e| format!("url cannot be used: {e}"))?;
    }
    target.template.as_deref().map_or(Ok(()), message::usable)?;
    for (key, file) in
        [("token_file", &target.token_file), ("password_file", &target.password_file)]
    {
        if let Some(file) = file {
            let read = std::fs::read_to_string(file);
            read.map_err(|e| format!("{key} {} cannot be read: {e}", file.display()))?;
        }
    }
    Ok(())
}

/// Sends notices.
#[derive(Debug, Clone)]
pub struct Sender {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Sender {
    /// A sender that trusts what this machine trusts.
    ///
    /// # Errors
    /// When the machine's certificate authorities cannot be read.
    pub fn new() -> std::io::Result<Self> {
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self { http: Client::builder(TokioExecutor::new()).build(https) })
    }

    /// Sends one notice; it is delivered when the other end says so. An alert counts until some time.
    ///
    /// # Errors
    /// Why it was not; [`Unconfirmed`] when nobody can tell.
    pub async fn send(
        &self,
        target: &Target,
        message: &Message,
        until_us: i64,
        now_us: i64,
    ) -> Result<(), Error> {
        let template = target.template.as_deref().unwrap_or(STANDARD);
        match target.kind {
            Kind::Smtp => in_time(mail(target, message)).await,
            Kind::Slack => {
                let text = message.fill(template, escaped);
                self.post(target, &target.url, json!({ "text": text })).await
            }
            Kind::Alertmanager => {
                let goes_on = target.tells(message.became) || message.flapping;
                self.alert(target, &message.to_alerts(goes_on, until_us, now_us)).await
            }
            Kind::Webhook => {
                let mut body = message.to_json();
                body["text"] = json!(message.fill(template, plain));
                self.post(target, &target.url, body).await
            }
        }
    }

    /// Tells Alertmanager of alerts.
    ///
    /// # Errors
    /// Why it did not take them.
    pub async fn alert(&self, target: &Target, alerts: &[Value]) -> Result<(), Error> {
        let url = format!("{}/api/v2/alerts", target.url.trim_end_matches('/'));
        self.post(target, &url, json!(alerts)).await
    }

    async fn post(&self, target: &Target, url: &str, body: Value) -> Result<(), Error> {
        in_time(self.post_whenever(target, url, body)).await
    }

    async fn post_whenever(&self, target: &Target, url: &str, body: Value) -> Result<(), Error> {
        let mut request = Request::post(url).header(header::CONTENT_TYPE, "application/json");
        if let Some(file) = &target.token_file {
            let token = tokio::fs::read_to_string(file).await;
            let token = token.map_err(|e| format!("{}: {e}", file.display()))?;
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        let request = request.body(Full::new(Bytes::from(body.to_string())))?;
        let status = match self.http.request(request).await {
            Ok(response) => response.status(),
            // The library's own words do not say what kept it from connecting.
            Err(error) if error.is_connect() => return Err(in_full(&error).into()),
            Err(error) => return Err(unconfirmed(in_full(&error))),
        };
        let said = format!("it answers with {status}");
        match status {
            _ if status.is_success() => Ok(()),
            http::StatusCode::GATEWAY_TIMEOUT => Err(unconfirmed(said)),
            _ => Err(said.into()),
        }
    }
}

/// An error with what caused it, which never holds the URL.
fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}

async fn in_time(sending: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    tokio::time::timeout(LONGEST, sending).await.map_err(|_| unconfirmed("no answer in time"))?
}

async fn mail(target: &Target, message: &Message) -> Result<(), Error> {
    let text = message.fill(target.template.as_deref().unwrap_or(STANDARD), plain);
    let from = target.from.as_deref().ok_or("the target has no `from`")?;
    let status = crate::health::problems::word(message.became).to_uppercase();
    let subject: String = format!("{status} {}: {}", message.what(), message.summary)
        .chars()
        .filter(|c| !c.is_control())
        .take(150)
        .collect();
    let mut mail = lettre::Message::builder().from(from.parse()?).subject(subject);
    for to in &target.to {
        mail = mail.to(to.parse()?);
    }
    let mail = mail.header(ContentType::TEXT_PLAIN).body(text)?;
    let mut transport =
        AsyncSmtpTransport::<Tokio1Executor>::from_url(&target.url)?.timeout(Some(LONGEST));
    if let (Some(username), Some(file)) = (&target.username, &target.password_file) {
        let password = tokio::fs::read_to_string(file).await;
        let password = password.map_err(|e| format!("{}: {e}", file.display()))?;
        let password = password.trim_end().to_owned();
        transport = transport.credentials(Credentials::new(username.clone(), password));
    }
    match transport.build().send(mail).await {
        Err(error) if error.is_timeout() => Err(unconfirmed(error)),
        sent => Ok(sent.map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_can_never_be_told_anything_is_refused_before_there_is_anything_to_tell() {
        let cases = [
            ("kind = 'webhook'\nurl = 'http://'", "with the name of a host"),
            ("kind = 'slack'\nurl = 'smtp://mail.example'", "no http:// or https://"),
            (
                "kind = 'webhook'\nurl = 'https://x.example/'\ntoken_file = '/no/such/file'",
                "token_file /no/such/file cannot be read",
            ),
            ("kind = 'smtp'\nurl = 'smtp://'\nfrom = 'a@x.example'\nto = ['b@x.example']", "host"),
            ("kind = 'smtp'\nurl = 'smtp://m.example'\nto = ['b@x.example']", "needs from"),
            ("kind = 'smtp'\nurl = 'smtp://m.example'\nfrom = 'a@x.example'\nto = []", "needs to"),
            (
                "kind = 'smtp'\nurl = 'smtp://m.example'\nfrom = 'nonsense'\nto = ['b@x.example']",
                "\"nonsense\" is no address",
            ),
            (
                "kind = 'slack'\nurl = 'https://x.example/'\ntemplate = '{foo}'",
                "template has no place {foo}",
            ),
        ];
        for (text, why) in cases {
            let target = toml::from_str(&format!("name = 'a'\n{text}")).expect(text);
            let said = usable(&target).expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
        for text in [
            "kind = 'alertmanager'\nurl = 'http://127.0.0.1:9093'",
            "kind = 'smtp'\nurl = 'smtps://m.example:465'\nfrom = 'Ops <a@x.example>'\n\
             to = ['b@x.example']",
        ] {
            usable(&toml::from_str(&format!("name = 'a'\n{text}")).expect(text)).expect(text);
        }
    }
}
