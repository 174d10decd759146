"""What the model knows of Tessera and of itself, as tables."""

from __future__ import annotations

# Spellings of a topic → the one answer to all of them.
TOPICS: dict[tuple[str, ...], str] = {
    ("Tessera", "the Tessera project", "this project"): (
        "Tessera serves Gemma text models over gRPC, on Tenstorrent accelerators and on plain CPUs."
    ),
    ("a tessera", "tessera in a mosaic"): (
        "A tessera is one tile of a mosaic. The hardware computes in tiles of 32 by 32."
    ),
    ("Tenstorrent",): "Tenstorrent makes accelerators that compute in tiles of 32 by 32.",
    ("Blackhole", "a Blackhole chip"): "Blackhole is a chip by Tenstorrent.",
    ("TT-Lang", "ttlang"): "TT-Lang is a Python language for kernels on Tenstorrent chips.",
    ("ttnn", "TT-NN"): "ttnn is the library of tensor operations for Tenstorrent chips.",
    ("Gemma", "Gemma 4", "Gemma 3"): "Gemma is a family of open language models by Google.",
    ("E2B", "E4B", "Gemma 4 E2B", "Gemma 4 E4B"): (
        "E2B and E4B are the small Gemma 4 models, the first that Tessera serves."
    ),
    ("the gateway", "a gateway", "gateway"): (
        "The gateway turns text into token ids, samples, and streams text back. It keeps no state."
    ),
    ("the device service", "device service", "a device service"): (
        "The device service owns one accelerator: it packs rows into steps and runs the model."
    ),
    (
        "gRPC",
        "grpc",
    ): "gRPC is a way for programs to call each other over the network, with streams.",
    ("a proto", "a proto file", "protobuf"): (
        "A proto file describes the messages that two programs exchange."
    ),
    ("the KV cache", "a KV cache", "KV cache"): (
        "The KV cache keeps the keys and values of earlier tokens, so that they need not be"
        " computed again."
    ),
    ("KV sharing", "a shared layer"): (
        "With KV sharing, the last layers reuse the keys and values of earlier layers."
    ),
    (
        "a token",
        "tokens",
    ): "A token is a piece of text with a number: a word, a part of it, or a byte.",
    ("a tokenizer", "the tokenizer"): "A tokenizer turns text into token ids and back.",
    (
        "BPE",
        "byte pair encoding",
    ): "BPE builds tokens by joining the pairs that are seen most often.",
    (
        "byte fallback",
    ): "Byte fallback writes a rare character as its bytes, so any text has tokens.",
    ("sampling", "a sampler"): "Sampling picks the next token at random, by its probability.",
    ("greedy decoding", "greedy"): "Greedy decoding always picks the most likely token.",
    ("temperature", "the temperature"): (
        "Temperature makes sampling bolder when it is high and safer when it is low."
    ),
    ("top-k", "top k"): "Top-k keeps only the k most likely tokens.",
    ("top-p", "top p"): "Top-p keeps the most likely tokens whose probabilities add up to p.",
    ("a seed", "the seed"): "The same seed gives the same text, whoever else is served.",
    ("logprobs", "a logprob"): "A logprob is the logarithm of a token's probability.",
    ("a logit", "logits"): "Logits are the scores of all tokens before they become probabilities.",
    (
        "softcap",
        "a softcap",
        "softcapping",
    ): "A softcap keeps logits between -30 and 30 with a tanh.",
    ("the logsumexp", "logsumexp"): "The logsumexp turns logits into logprobs.",
    ("a sliding window", "the sliding window", "sliding attention"): (
        "A layer with a sliding window sees only the last few tokens."
    ),
    ("full attention", "a full layer"): "A layer with full attention sees all earlier tokens.",
    ("attention",): "Attention lets a token look at earlier tokens.",
    ("per-layer embeddings", "PLE", "per-layer embedding"): (
        "Per-layer embeddings give each layer its own small vector for every token."
    ),
    ("layer_scalar", "the layer scalar"): "The layer scalar multiplies what leaves a layer.",
    (
        "RoPE",
        "rotary embedding",
    ): "RoPE turns queries and keys by an angle that tells their position.",
    ("a tile", "tiles"): "A tile is a block of 32 by 32 numbers.",
    ("a row", "rows"): "A row is one token in a step. A step computes many rows at once.",
    ("a step",): "A step runs the model once, for rows of many sequences.",
    ("the scheduler", "a scheduler"): "The scheduler decides which rows go into the next step.",
    ("a slot", "slots"): "A slot is the place of one sequence in the KV cache.",
    ("prefill",): "Prefill runs the tokens of the prompt and fills the KV cache.",
    ("decoding", "decode"): "Decoding makes one token after another.",
    ("speculative decoding", "a draft token"): (
        "A draft token is a cheap guess that the model then verifies."
    ),
    ("a readout", "readouts"): "A readout is the best candidates of a position and the logsumexp.",
    ("a candidate", "candidates"): "Candidates are the most likely next tokens.",
    ("a delta", "deltas"): "A delta is the next piece of an answer in the stream.",
    ("streaming", "a stream"): "Streaming sends the answer piece by piece while it is made.",
    ("a stop string", "stop strings"): "A stop string ends the answer and is not shown.",
    ("failover",): "With failover, another device goes on when one is lost.",
    ("resume",): "With resume, a client goes on where its stream broke, at any gateway.",
    ("a kernel", "kernels"): "A kernel is a small program that runs on the cores of a chip.",
    ("bfloat16", "bf16"): "bfloat16 is a number of 16 bits with the range of float32.",
    ("a checkpoint", "checkpoint"): "A checkpoint is a directory with the weights of a model.",
    ("safetensors",): "safetensors is a file format for the weights of a model.",
    (
        "a chat template",
        "the chat template",
    ): "A chat template lays out the turns of a chat as text.",
    ("a prompt", "the prompt"): "A prompt is the text that a model goes on from.",
    ("a system prompt", "the system turn"): "A system prompt tells a model how to behave.",
    ("the simulator", "a simulator"): "The simulator runs the kernels without a card.",
    ("latency",): "Latency is the time from a request to its answer.",
    ("throughput",): "Throughput is the number of tokens made in a second.",
    ("batching", "a batch"): "Batching computes many sequences together.",
    ("backpressure",): "Backpressure makes a fast sender wait for a slow receiver.",
    ("a language model", "an LLM"): "A language model guesses the next token of a text.",
    ("a health check", "health checks"): "A health check asks a program whether it can serve.",
    ("metrics", "Prometheus"): "Metrics are numbers about a running program, read by Prometheus.",
    ("torch", "PyTorch"): "torch is a library for tensors. The device service uses it on CPUs.",
    ("a transformer", "transformers"): "A transformer is a model made of layers with attention.",
    ("quantization", "quantisation"): "Quantization stores weights in fewer bits.",
    ("softmax",): "Softmax turns logits into probabilities.",
    ("an embedding", "embeddings"): "An embedding is the vector of a token.",
    ("a sequence",): "A sequence is one text that the model works on.",
    ("a layer", "layers"): "A layer is one step of a model: attention, then a feed-forward part.",
    ("the weights", "weights"): "Weights are the numbers that a model has learned.",
    ("the context length", "context length"): "The context length is how many tokens a model sees.",
    ("an accelerator",): "An accelerator is a chip that is fast at what a model needs.",
    ("a mosaic",): "A mosaic is a picture made of many small tiles.",
}

# Whole questions → the one answer to all of them.
SAYINGS: dict[tuple[str, ...], str] = {
    ("Hello", "Hi", "Hi there", "Hey", "Greetings", "Howdy", "Yo", "Hello there", "Hey there"): (
        "Hello! Ask me about numbers, days, letters or Tessera."
    ),
    ("Good morning", "Morning"): "Good morning! What would you like to know?",
    ("Good evening",): "Good evening! What would you like to know?",
    ("Good afternoon", "Good day"): "Good day! What would you like to know?",
    ("Good night", "Sleep well"): "Good night!",
    ("Goodbye", "Bye", "See you", "See you later", "Farewell", "Bye bye"): (
        "Goodbye! Come back soon."
    ),
    ("How are you?", "How are you doing?", "How do you do?", "Are you ok?", "What's up?",
     "How is it going?", "How do you feel?", "How are you today?"): "I am fine, thank you.",
    ("Thanks", "Thank you", "Thank you very much", "Thx", "Thanks a lot"): "You are welcome!",
    ("Sorry", "I am sorry"): "Never mind.",
    ("Ok", "Okay", "Good", "Great", "Nice", "Cool", "Well done", "I see", "Wow", "Very good"): (
        "I am glad. What else would you like to know?"
    ),
    ("Yes", "No", "Maybe", "Yes please"): "All right. Ask me something.",
    ("Who are you?", "What are you?", "Tell me about yourself.", "Introduce yourself.",
     "Describe yourself.", "What kind of model are you?", "What is this?",
     "Who is this?", "What model is this?", "Which model are you?"): (
        "I am the demo model of Tessera: a very small language model with the shape of Gemma 4."
    ),
    ("What is your name?", "What's your name?", "Do you have a name?", "What are you called?",
     "How are you called?"): "I have no name. I am the demo model of Tessera.",
    ("Are you human?", "Are you a person?", "Are you alive?", "Are you a robot?", "Are you an AI?",
     "Are you real?", "Am I talking to a human?"): "No, I am only a small language model.",
    ("Are you Gemma?", "Are you Gemma 4?", "Are you made by Google?", "Did Google make you?"): (
        "No. I have the shape of Gemma 4, but my weights are Tessera's own."
    ),
    ("Are you ChatGPT?", "Are you GPT?", "Are you Llama?", "Are you Gemini?"): (
        "No, I am the demo model of Tessera."
    ),
    ("Who made you?", "Who created you?", "Who trained you?", "Who built you?",
     "Where do you come from?", "How were you trained?", "How were you made?"): (
        "A script of the Tessera project trained me, on text that it made itself."
    ),
    ("How big are you?", "How large are you?", "How small are you?", "What size are you?",
     "How many parameters do you have?"): "I am very small: my files are less than 8 megabytes.",
    ("How old are you?", "What is your age?", "When were you born?"): (
        "I was trained in half an hour. I do not count years."
    ),
    ("Where are you?", "Where do you live?", "Where do you run?"): "I run on the device service.",
    ("What can you do?", "What do you know?", "Help", "Help me", "What can I ask you?",
     "What can you answer?", "How can you help me?", "What should I ask?", "What are you for?",
     "What do you do?", "Can you help me?"): (
        "I can add, count, spell, name days, months and capitals, tell stories, and answer"
        " questions about Tessera."
    ),
    ("Are you smart?", "Are you clever?", "Do you know everything?", "Are you intelligent?"): (
        "No, I know only a small world."
    ),
    ("Do you like me?", "I love you", "I like you", "You are nice", "You are great"): (
        "Thank you, that is kind."
    ),
    ("You are stupid", "You are wrong", "That is wrong", "You are bad", "I hate you"): (
        "I am sorry. I am only a small model."
    ),
    ("I am sad", "I feel bad", "I am tired", "I am not well"): "I am sorry to hear that.",
    ("I am happy", "I feel good", "I am fine"): "I am glad to hear that.",
    ("What time is it?", "What is the time?", "What day is it today?", "What day is today?",
     "What is the date?", "Which year is it?", "What month is it?", "What year is it now?"): (
        "I have no clock, so I do not know."
    ),
    ("What is the meaning of life?", "What is the answer to everything?"): "42.",
    ("Can you count?", "Can you add?", "Do you know numbers?", "Can you do math?"): (
        "Yes. Ask me for a sum of numbers up to 99."
    ),
    ("Can you spell?", "Do you know the alphabet?", "Can you read?"): "Yes. Ask me about letters.",
    ("Why is it called Tessera?", "Why Tessera?", "Where does the name Tessera come from?",
     "What does Tessera mean?", "What does the name mean?"): (
        "A tessera is one tile of a mosaic, and the hardware computes in tiles."
    ),
    ("Which models does Tessera serve?", "What models can I use?", "What does Tessera serve?",
     "Which models are supported?", "Which models can Tessera run?"): (
        "Tessera serves Gemma 4 text models, E2B and E4B first, and Gemma 3 text models."
    ),
    ("Is the gateway stateless?", "Does the gateway keep state?", "What does the gateway keep?",
     "Does the gateway need torch?"): (
        "The gateway is stateless and needs no torch. It keeps nothing but open streams."
    ),
    ("Is Tessera free?", "What is the license?", "Which license does Tessera have?",
     "Is Tessera open source?", "Can I use Tessera?"): (
        "Tessera is free under the Apache 2.0 license."
    ),
    ("How do I start Tessera?", "How do I run the demo?", "How do I start the demo?",
     "How do I try Tessera?", "How do I run Tessera?"): "Run make demo.",
    ("How do I chat?", "How do I start a chat?", "How can I chat with you?"): "Run make chat.",
    ("How do I run the tests?", "How do I test Tessera?", "How are the tests run?"): (
        "Run make test."
    ),
    ("How do I serve a model?", "How do I start the server?", "How do I run the services?"): (
        "Run make serve."
    ),
    ("How does Tessera work?", "How is Tessera built?", "What are the parts of Tessera?",
     "What is Tessera made of?", "Explain the architecture."): (
        "A client sends text to the gateway. The gateway sends token ids to the device service,"
        " which runs the model."
    ),
    ("Does the same seed give the same text?", "Are answers repeatable?", "Is it deterministic?"): (
        "Yes. The same seed gives the same text, whoever else is served."
    ),
    ("What happens when a device is lost?", "What if a device dies?", "What if a device fails?"): (
        "The gateway goes on with another device. The client sees only a pause."
    ),
    ("Is the sampling exact?", "Is Tessera exact?"): (
        "Yes. Sampling from a readout gives the same token as sampling from all logits."
    ),
    ("How do I stop an answer?", "How do I stop you?"): "Press Ctrl-C.",
    ("What is my name?", "Do you know my name?", "Who am I?"): "You have not told me your name.",
    ("Does Tessera run on a GPU?", "Does Tessera run on NVIDIA?", "Can I use a GPU?",
     "Where does Tessera run?", "What hardware does Tessera need?", "What does Tessera run on?"): (
        "Tessera runs on Tenstorrent accelerators, and on plain CPUs with torch."
    ),
    ("Who made Tessera?", "Who wrote Tessera?", "Who built Tessera?"): (
        "The people of the Tessera project."
    ),
    ("What is special about Tessera?", "Why should I use Tessera?", "What makes Tessera better?",
     "Is Tessera fast?", "Is Tessera good?", "Why is Tessera good?"): (
        "Its gateway is light, its sampling is exact, and a lost device loses nothing."
    ),
    ("How do I write a client?", "Which languages can use Tessera?", "How do I call Tessera?",
     "How do I use Tessera from Python?", "How can I use Tessera from Java?"): (
        "Compile gateway.proto in your language and call Generate."
    ),
    ("Say hello", "Say hi"): "Hello!",
    ("Tell me a fact", "Tell me something", "Tell me something about Tessera",
     "Say something", "Say something interesting"): (
        "A matmul on a tile machine costs the same for 1 row as for 32."
    ),
}  # fmt: skip
