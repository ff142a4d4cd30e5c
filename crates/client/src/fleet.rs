//! The catalogue, the agents, and whether all is well.

use longshore_model::wire::rest::{AgentList, HealthView, OperationList, StatusView};
use reqwest::Method;

use crate::client::{ANSWER_TIMEOUT, Client};
use crate::error::Error;

impl Client {
    /// The catalogue, with schemas.
    ///
    /// # Errors
    /// The controller could not be reached, or refused.
    pub async fn operations(&self) -> Result<OperationList, Error> {
        self.json(self.to(Method::GET, "/operations"), ANSWER_TIMEOUT).await
    }

    /// The agents, sorted by host name.
    ///
    /// # Errors
    /// The controller could not be reached, or refused.
    pub async fn agents(&self) -> Result<AgentList, Error> {
        self.json(self.to(Method::GET, "/agents"), ANSWER_TIMEOUT).await
    }

    /// Whether the system is healthy.
    ///
    /// # Errors
    /// The controller could not be reached, or refused.
    pub async fn status(&self) -> Result<StatusView, Error> {
        self.json(self.to(Method::GET, "/status"), ANSWER_TIMEOUT).await
    }

    /// Whether the controller takes requests. Needs no token.
    ///
    /// # Errors
    /// It cannot be reached, or says what is missing.
    pub async fn ready(&self) -> Result<HealthView, Error> {
        self.json(self.to(Method::GET, "//readyz"), ANSWER_TIMEOUT).await
    }
}
