"""People's judgement of two models: a page that asks, and the result of what they said."""
