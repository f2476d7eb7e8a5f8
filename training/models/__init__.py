"""The models and what belongs to them: configuration, preprocessing, domain metrics."""
