//! Faults in answers of the API server, each around the first private key that an answer holds.

/// A fault of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It ends within the key.
    CutOff,
    /// A control character within the key: no JSON.
    ControlCharacter,
    /// A digit before the key: no JSON.
    StrayDigit,
    /// The key is in a list.
    List,
    /// The key is the name of a field.
    FieldName,
    /// The key is no base64.
    NotBase64,
    /// The generation of the object is the key.
    Generation,
    /// A label of the object has the key as its name, and a number as its value.
    LabelName,
    /// The answer is a failure whose message and details quote the key.
    Failure,
    /// The type of a watch's event is the key.
    EventType,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::CutOff,
        Self::ControlCharacter,
        Self::StrayDigit,
        Self::List,
        Self::FieldName,
        Self::NotBase64,
        Self::Generation,
        Self::LabelName,
        Self::Failure,
        Self::EventType,
    ];

    /// The answer with the fault, none if it holds no private key.
    pub fn break_answer(self, answer: &[u8], is_watch: bool) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(answer).ok()?;
        let begin = text.find(&format!("\"{BEGIN}"))?;
        let (before, rest) = text.split_at(begin);
        let end = rest.get(1..)?.find('"')? + 2;
        let (quoted, after) = rest.split_at(end);
        let middle = quoted.len() / 2;
        let with = |text: &str| format!("{before}{}{text}{}{after}", &quoted[..middle], &quoted[middle..]);
        let in_metadata = |field: String| {
            let at = before.rfind(METADATA)? + METADATA.len();
            Some(format!("{}{field},{}{quoted}{after}", &before[..at], &before[at..]))
        };
        let broken = match self {
            Self::CutOff => format!("{before}{}", &quoted[..middle]),
            Self::ControlCharacter => with("\u{1}"),
            Self::StrayDigit => format!("{before}7{quoted}{after}"),
            Self::List => format!("{before}[{quoted}]{after}"),
            Self::FieldName => format!("{before}{{{quoted}:7}}{after}"),
            Self::NotBase64 => with("!"),
            Self::Generation => in_metadata(format!("\"generation\":{quoted}"))?,
            Self::LabelName => in_metadata(format!("\"labels\":{{{quoted}:7}}"))?,
            Self::Failure => failure(quoted, is_watch),
            Self::EventType if is_watch => format!("{{\"type\":{quoted},\"object\":{{}}}}\n"),
            Self::EventType => format!("{{\"kind\":{quoted},\"items\":{quoted},\"metadata\":{quoted}}}"),
        };
        Some(broken.into_bytes())
    }
}

fn failure(quoted: &str, is_watch: bool) -> String {
    let status = format!(
        "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"status\":\"Failure\",\"code\":422,\"reason\":\"Invalid\",\
         \"message\":{quoted},\"details\":{{\"causes\":[{{\"reason\":\"FieldValueInvalid\",\"field\":\"data\",\"message\":{quoted}}}]}}}}"
    );
    if is_watch { format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n") } else { status }
}

/// The base64 of the beginning of a private key in PEM.
const BEGIN: &str = "LS0tLS1CRUdJTiBQUklWQVRF";
const METADATA: &str = "\"metadata\":{";
