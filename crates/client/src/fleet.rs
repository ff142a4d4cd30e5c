//! The catalogue, the agents, and whether all is well.

use longshore_model::HostName;
use longshore_model::wire::rest::{AgentDetail, AgentList, AgentView, DrainRequest, FactsView, HealthView, OperationList, StatusView};
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

    /// One agent, by its id or its host's name, with the history of its drains.
    ///
    /// # Errors
    /// There is no such agent, or the controller could not be reached.
    pub async fn agent(&self, agent: &HostName) -> Result<AgentDetail, Error> {
        self.json(self.to(Method::GET, &format!("/agents/{agent}")), ANSWER_TIMEOUT).await
    }

    /// What an agent knows of its host.
    ///
    /// # Errors
    /// There is no such agent or it told nothing, or the controller could not be reached.
    pub async fn agent_facts(&self, agent: &HostName) -> Result<FactsView, Error> {
        self.json(self.to(Method::GET, &format!("/agents/{agent}/facts")), ANSWER_TIMEOUT).await
    }

    /// Removes what an agent that is gone left behind.
    ///
    /// # Errors
    /// There is no such agent or it runs, or the controller could not be reached.
    pub async fn remove_agent(&self, agent: &HostName) -> Result<(), Error> {
        self.send(self.to(Method::DELETE, &format!("/agents/{agent}")), ANSWER_TIMEOUT).await?;
        Ok(())
    }

    /// Tells an agent, by its id or its host's name, to take no new work. Safe to repeat; gives the agent as it stands.
    ///
    /// # Errors
    /// The controller could not be reached, or refused.
    pub async fn drain(&self, agent: &HostName, reason: Option<String>) -> Result<AgentView, Error> {
        let request = self.to(Method::POST, &format!("/agents/{}/drain", agent)).json(&DrainRequest { reason });
        self.json(request, ANSWER_TIMEOUT).await
    }

    /// Tells an agent to take work again. Safe to repeat.
    ///
    /// # Errors
    /// The controller could not be reached, or refused.
    pub async fn undrain(&self, agent: &HostName) -> Result<AgentView, Error> {
        self.json(self.to(Method::POST, &format!("/agents/{}/undrain", agent)), ANSWER_TIMEOUT).await
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
