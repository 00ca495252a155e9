"""The page of a campaign and its siblings for machines: HTML, JSON, JUnit XML, Markdown, all from one CampaignSummary."""
