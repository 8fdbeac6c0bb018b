"""Rows of fine-tuning data sets, in all common layouts, read into the records of `data_pipes.chat.messages`.

Reading order: `records` (the public functions), `columns` (messages, prompt, completion), `turns` (one
conversation), `context` (tools, system prompt, history), `dialogue` (a conversation as one text),
`shared_prompt` (the prompt of a preference).
"""
