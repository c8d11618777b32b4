//! One chat: from a question to the end of its answer.

use std::sync::Arc;
use std::time::Duration;

use gaia_api::Clock;
use gaia_auth::Principal;
use gaia_runtime::{MemoryBudget, MemoryReservation};
use tokio::time::{Instant, timeout_at};

use crate::error::ChatError;
use crate::metrics::{Account, ChatMetrics};
use crate::provider::{Answer, Part, Provider, ProviderError};
use crate::question::{Question, invalid};
use crate::slots::{Slot, Slots};

/// State for answering questions.
pub(crate) struct Chats {
    pub(crate) provider: Provider,
    pub(crate) model: Option<String>,
    /// The permitted models; empty: any.
    pub(crate) models: Vec<String>,
    pub(crate) slots: Slots,
    /// Memory budget for questions.
    pub(crate) memory: MemoryBudget,
    pub(crate) metrics: ChatMetrics,
    pub(crate) clock: Arc<dyn Clock>,
    /// Time limit for a complete answer.
    pub(crate) longest: Duration,
}

/// A received question, and its slot.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) question: Question,
    pub(crate) slot: Slot,
    pub(crate) account: Account,
    /// The memory of the question, until the provider has received it.
    pub(crate) _held: MemoryReservation,
}

/// An answer in progress. Dropping it closes the connection to the provider.
#[derive(Debug)]
pub(crate) struct Chat {
    talk: Talk,
    account: Account,
}

/// The answer without metrics.
#[derive(Debug)]
struct Talk {
    answer: Answer,
    characters_left: usize,
    ends: Instant,
    /// Set if the credential expires before the time limit.
    ends_with_credential: bool,
    _slot: Slot,
}

impl Chats {
    /// Sends the question to the provider on behalf of the principal.
    pub(crate) async fn begin(&self, principal: &Principal, asked: Asked) -> Result<Chat, ChatError> {
        let Asked { question, slot, mut account, _held } = asked;
        match self.ask(principal, &question, slot).await {
            Ok(talk) => Ok(Chat { talk, account }),
            Err(error) => {
                account.came_to(error.code());
                Err(error)
            }
        }
    }

    async fn ask(&self, principal: &Principal, question: &Question, slot: Slot) -> Result<Talk, ChatError> {
        let model = self.model_of(question)?;
        let longest = Instant::now() + self.longest;
        let credential_ends = principal.time_left(self.clock.now()).map(|left| Instant::now() + left);
        let ends = credential_ends.map_or(longest, |end| end.min(longest));
        let asking = timeout_at(ends, self.provider.ask(model, &question.messages));
        let Ok(answer) = asking.await else {
            return Err(if ends < longest { ChatError::CredentialEnded } else { ProviderError::Endless.into() });
        };
        let answer = answer?;
        Ok(Talk {
            answer,
            characters_left: MAX_ANSWER_CHARACTERS,
            ends,
            ends_with_credential: ends < longest,
            _slot: slot,
        })
    }

    fn model_of<'a>(&'a self, question: &'a Question) -> Result<&'a str, ChatError> {
        let Some(named) = &question.model else {
            let usual = self.model.as_deref();
            return usual.ok_or_else(|| invalid("model", "is required: this service has no default model").into());
        };
        let is_known = self.models.is_empty() || self.models.contains(named) || self.model.as_ref() == Some(named);
        if is_known { Ok(named) } else { Err(invalid("model", "is not one of the permitted models").into()) }
    }
}

impl Chat {
    /// Returns the next part of the answer; none after its end or an error.
    pub(crate) async fn next(&mut self) -> Result<Part, ChatError> {
        let part = self.talk.part().await;
        self.account.came_to(match &part {
            Ok(Part::Text(text)) => {
                self.account.text(text);
                return part;
            }
            // A truncated answer is not complete.
            Ok(Part::End { finish_reason: reason @ ("length" | "content_filter") }) => reason,
            Ok(Part::End { .. }) => COMPLETED,
            Err(error) => error.code(),
        });
        part
    }
}

impl Talk {
    async fn part(&mut self) -> Result<Part, ChatError> {
        if self.characters_left == 0 {
            return Ok(Part::End { finish_reason: "length" });
        }
        let Ok(part) = timeout_at(self.ends, self.answer.next()).await else {
            let is_credential = self.ends_with_credential;
            return Err(if is_credential { ChatError::CredentialEnded } else { ProviderError::Endless.into() });
        };
        let mut part = part?;
        if let Part::Text(text) = &mut part {
            let mut characters = text.char_indices();
            let cut = characters.nth(self.characters_left).map(|(at, _)| at);
            text.truncate(cut.unwrap_or(text.len()));
            self.characters_left -= text.chars().count();
        }
        Ok(part)
    }
}

/// Metric label of a complete answer.
const COMPLETED: &str = "completed";
/// Maximum length of an answer, because it is held in memory for clients that request it as a whole.
const MAX_ANSWER_CHARACTERS: usize = 1024 * 1024;
