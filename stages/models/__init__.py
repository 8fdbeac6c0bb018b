"""A model on disk: Hugging Face folders, GGUF files, adapters and reward models. Read in this order:

- `language_model`: load and save a model with its weights and tokenizer; `reward_model` does so for rewards;
- `folder` and `shards`: the files of a model's folder; `hub`: a model by its name at huggingface.co;
- `gguf`: a GGUF file; `jax_params`: params as an Orbax folder or Flax's msgpack;
- `special_tokens`, `tokenizer_config`, `template_files`: the small files about tokens and chat templates;
- `chat_template`, `template_kwargs`, `text_prompt`: the prompts that a model expects, and the ids that end
  its answers;
- `new_tokens`: more rows for more tokens; `identity`: digests of weights;
- `adapter`: adapters attached to a model; `adapter_folder`, `initial_adapters`: read from PEFT's format;
- `hardware`: device and dtype.
"""
