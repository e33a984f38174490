//! The console: one line on standard output for each text. Nothing to set up, so good for a first try.

use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Mutex;

use super::{Delivered, Destination, Failure, Parcel, Surroundings};
use crate::template::{Medium, Template};

const TEMPLATE: &str = "{{ received_at }} {{ from_name or from }} → {{ to_name or to }}: {{ text }}\
    {% for m in media %} [{{ m.link or m.filename or m.content_type or 'attachment' }}]{% endfor %}";

/// `kind = "console"` has no keys of its own.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// Writes lines to standard output.
pub struct Console {
    template: Template,
    timeout: Duration,
    /// Locked for a whole line, so that lines never mix.
    out: Mutex<Box<dyn AsyncWrite + Send + Unpin>>,
}

impl Console {
    /// Makes it ready.
    ///
    /// # Errors
    /// Never in practice: only if the built-in template were broken.
    pub fn build(_config: &Config, around: Surroundings<'_>) -> Result<Self, String> {
        let template = match around.template {
            Some(template) => template,
            None => Template::compile(TEMPLATE).map_err(|error| error.to_string())?,
        };
        Ok(Self {
            template,
            timeout: around.timeout,
            out: Mutex::new(Box::new(tokio::io::stdout())),
        })
    }

    async fn write(&self, line: &str) -> std::io::Result<()> {
        let mut out = self.out.lock().await;
        out.write_all(line.as_bytes()).await?;
        out.flush().await
    }
}

#[async_trait]
impl Destination for Console {
    async fn deliver(&self, parcel: &Parcel<'_>) -> Result<Delivered, Failure> {
        let line = self.render(parcel)? + "\n";
        match tokio::time::timeout(self.timeout, self.write(&line)).await {
            Ok(Ok(())) => Ok(Delivered {
                detail: "written to standard output".to_owned(),
                thread: None,
            }),
            Ok(Err(error)) => Err(Failure::unreachable(format!(
                "cannot write to standard output: {error}"
            ))),
            Err(_) => Err(Failure::unreachable(
                "standard output takes nothing: is its reader stopped?",
            )),
        }
    }

    fn render(&self, parcel: &Parcel<'_>) -> Result<String, Failure> {
        let template = parcel.template.unwrap_or(&self.template);
        template
            .render(Medium::Line, &parcel.values())
            .map_err(|error| Failure::permanent(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::delivery::DeliveryId;
    use crate::message::{Message, MessageId, Timestamp};
    use crate::number::Number;

    async fn deliver(out: tokio::io::DuplexStream, text: &str) -> Result<Delivered, Failure> {
        let template = Template::compile(TEMPLATE).unwrap();
        let console = Console {
            template,
            timeout: Duration::from_millis(50),
            out: Mutex::new(Box::new(out)),
        };
        let message = Message {
            id: MessageId(uuid::Uuid::nil()),
            source: "carrier".parse().unwrap(),
            provider_id: String::new(),
            from: Number::parse("+13035550100").unwrap(),
            to: Number::parse("1-1234").unwrap(),
            text: text.to_owned(),
            media: Vec::new(),
            extra: BTreeMap::new(),
            received_at: Timestamp(0),
            routes: Vec::new(),
            redacted_at: None,
        };
        let parcel = Parcel {
            id: DeliveryId {
                message: message.id,
                ordinal: 1,
            },
            message: &message,
            from_name: None,
            to_name: Some("Desk"),
            route: None,
            template: None,
            groups: BTreeMap::new(),
            progress: &[],
            thread: None,
        };
        console.deliver(&parcel).await
    }

    #[tokio::test]
    async fn a_text_is_one_line() {
        let (out, mut read) = tokio::io::duplex(1024);
        deliver(out, "two\nlines \u{1b}[2J").await.unwrap();
        let mut written = String::new();
        read.read_to_string(&mut written).await.unwrap();
        assert_eq!(
            written,
            "1970-01-01T00:00:00.000Z +13035550100 → Desk: two lines [U+001B][2J\n"
        );
    }

    #[tokio::test]
    async fn a_closed_or_stopped_reader_is_transient() {
        let (out, read) = tokio::io::duplex(8);
        assert!(matches!(
            deliver(out, "stopped").await,
            Err(Failure::Transient { .. })
        ));
        drop(read);
        let (out, read) = tokio::io::duplex(8);
        drop(read);
        assert!(matches!(
            deliver(out, "closed").await,
            Err(Failure::Transient { .. })
        ));
    }
}
