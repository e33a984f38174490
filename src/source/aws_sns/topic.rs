//! The topic, and the URLs that belong to it.

use url::Url;

/// Upper bound of the digits in the name of a certificate. AWS uses 32.
const DIGITS_MAX: usize = 64;

/// `arn:PARTITION:sns:REGION:ACCOUNT:NAME`
pub(super) struct Topic {
    arn: String,
    host: String,
}

impl Topic {
    /// `None` if this is not the ARN of a topic, or of a partition whose SNS hosts are not known.
    pub(super) fn parse(arn: &str) -> Option<Self> {
        let parts: Vec<&str> = arn.split(':').collect();
        let ["arn", partition, "sns", region, account, name] = parts.as_slice() else {
            return None;
        };
        let is_word = |word: &str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !word.is_empty() && word.bytes().all(is_plain)
        };
        let is_region = region
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if ![*region, *account, *name].into_iter().all(is_word) || !is_region {
            return None;
        }
        let domain = match *partition {
            "aws" | "aws-us-gov" => "amazonaws.com",
            "aws-cn" => "amazonaws.com.cn",
            _ => return None,
        };
        Some(Self {
            arn: arn.to_owned(),
            host: format!("sns.{region}.{domain}"),
        })
    }

    /// The ARN as configured.
    pub(super) fn arn(&self) -> &str {
        &self.arn
    }

    /// The URL of a certificate, if it is at the SNS host of the region.
    pub(super) fn certificate(&self, url: &str) -> Option<Url> {
        let url = self.url(url)?;
        let name = url.path().strip_prefix("/SimpleNotificationService-");
        let name = name.and_then(|name| name.strip_suffix(".pem"))?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_certificate = (1..=DIGITS_MAX).contains(&name.len()) && name.bytes().all(is_hex);
        (is_certificate && url.query().is_none()).then_some(url)
    }

    /// The URL that confirms the subscription to this topic, if it is at the SNS host of the region.
    pub(super) fn confirmation(&self, url: &str) -> Option<Url> {
        let url = self.url(url)?;
        let has = |name: &str, wanted: &str| {
            url.query_pairs()
                .any(|(key, value)| key == name && value == wanted)
        };
        (has("Action", "ConfirmSubscription") && has("TopicArn", &self.arn)).then_some(url)
    }

    fn url(&self, url: &str) -> Option<Url> {
        let url = Url::parse(url).ok()?;
        let is_ours = url.scheme() == "https"
            && url.host_str() == Some(&self.host)
            && url.port().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        is_ours.then_some(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:sns:us-east-1:123456789012:inbound-sms";

    #[test]
    fn only_the_arn_of_a_topic_is_one() {
        assert_eq!(Topic::parse(ARN).unwrap().host, "sns.us-east-1.amazonaws.com");
        let china = Topic::parse("arn:aws-cn:sns:cn-north-1:1:x").unwrap();
        assert_eq!(china.host, "sns.cn-north-1.amazonaws.com.cn");
        let government = Topic::parse("arn:aws-us-gov:sns:us-gov-west-1:1:x").unwrap();
        assert_eq!(government.host, "sns.us-gov-west-1.amazonaws.com");
        for wrong in [
            "",
            "x",
            "arn:aws:sqs:us-east-1:1:x",
            "arn:aws:sns:us-east-1:1",
            "arn:aws:sns:us-east-1:1:x:y",
            "arn:aws:sns::1:x",
            "arn:aws:sns:evil.example/:1:x",
            "arn:aws:sns:evil.example#:1:x",
            "arn:aws:sns:a.b:1:x",
            "arn:aws:sns:US-EAST-1:1:x",
            "arn:AWS:sns:us-east-1:1:x",
            "arn:aws-iso:sns:us-iso-east-1:1:x",
        ] {
            assert!(Topic::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_certificate_is_at_the_host_of_the_region_only() {
        let topic = Topic::parse(ARN).unwrap();
        let is_ours = |url: &str| topic.certificate(url).is_some();
        assert!(is_ours(
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem"
        ));
        for wrong in [
            "",
            "http://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem",
            "https://sns.us-east-2.amazonaws.com/SimpleNotificationService-0.pem",
            "https://sns.us-east-1.amazonaws.com.evil.example/SimpleNotificationService-0.pem",
            "https://evil.example/sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem",
            "https://sns.us-east-1.amazonaws.com@evil.example/SimpleNotificationService-0.pem",
            "https://u:p@sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem",
            "https://sns.us-east-1.amazonaws.com:8443/SimpleNotificationService-0.pem",
            "https://sns.us-east-1.amazonaws.com/x.pem",
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.txt",
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-.pem",
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-g.pem",
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0/1.pem",
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0.pem?1",
            "https://sns.us-east-1.amazonaws.com/?Action=Publish&x=.pem",
        ] {
            assert!(!is_ours(wrong), "{wrong}");
        }
    }

    #[test]
    fn only_this_topic_is_confirmed() {
        let topic = Topic::parse(ARN).unwrap();
        let url = |action: &str, arn: &str| {
            let host = "https://sns.us-east-1.amazonaws.com";
            topic
                .confirmation(&format!("{host}/?Action={action}&TopicArn={arn}&Token=1"))
                .is_some()
        };
        assert!(url("ConfirmSubscription", ARN));
        assert!(!url("ConfirmSubscription", "arn:aws:sns:us-east-1:1:other"));
        assert!(!url("Unsubscribe", ARN));
    }
}
