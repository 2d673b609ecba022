"""Chat templates in the styles of those that models bring, on the embedded model's control tokens."""

from __future__ import annotations

TURN = "<|{{ message.role if message.role != 'tool' else 'user' }}|>"

# Hermes and Qwen: tools as JSON in the system turn, calls as JSON between marks, results in a turn of the user.
HERMES = """\
{{- bos_token }}
{%- if tools %}
{{- '<|system|>' }}{% if messages[0].role == 'system' %}{{ messages[0].content ~ '\\n' }}{% endif %}
{{- 'Functions:\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' ~ (tool | tojson) }}{% endfor %}
{{- '\\n</tools>' ~ eos_token }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|assistant|>' }}
{%- if message.reasoning_content %}{{ '<think>' ~ message.reasoning_content ~ '</think>' }}{% endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>{"name": ' ~ (call.function.name | tojson) ~ ', "arguments": ' }}
{%- set given = call.function.arguments %}
{%- if given is string %}{{ given }}{% else %}{{ given | tojson }}{% endif %}
{{- '}</tool_call>' }}
{%- endfor %}
{{- eos_token }}
{%- elif message.role == 'tool' %}
{{- '<|user|><tool_response>' ~ message.content ~ '</tool_response>' ~ eos_token }}
{%- elif message.role != 'system' or not tools %}
{{- '<|' ~ message.role ~ '|>' ~ message.content ~ eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

# Qwen3-Coder: a tag for each parameter, so the arguments must be an object.
XML = """\
{{- bos_token }}
{%- for tool in tools or [] %}
{{- '<function><name>' ~ tool.function.name ~ '</name>' ~ tool.function.description }}
{%- for name, field in tool.function.parameters.properties.items() %}
{{- '<parameter>' ~ name ~ ':' ~ ('text' if field.type == 'string' else field.type) ~ '</parameter>' }}
{%- endfor %}{{ '</function>' }}
{%- endfor %}
{%- for message in messages %}
{{- '<|' ~ ('user' if message.role == 'tool' else message.role) ~ '|>' ~ message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<function=' ~ call.function.name ~ '>' }}
{%- for name, value in call.function.arguments.items() %}
{{- '<parameter=' ~ name ~ '>' ~ (value if value is string else value | tojson) ~ '</parameter>' }}
{%- endfor %}{{ '</function>' }}
{%- endfor %}
{{- eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

# DeepSeek: a message with calls is one whose content is none, and arguments are text.
DEEPSEEK = """\
{{- bos_token }}
{%- if tools %}{{ tools | tojson(ensure_ascii=true) }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' and message.content is none %}
{%- for call in message.tool_calls %}
{{- '<|assistant|>' + call.function.name + '\\n' + call.function.arguments }}
{%- endfor %}{{ eos_token }}
{%- elif message.role == 'tool' %}{{ '<|user|>' + message.name + ': ' + message.content + eos_token }}
{%- else %}{{ '<|' + message.role + '|>' + message.content + eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

# Mistral: ids of nine letters and digits.
MISTRAL = """\
{{- bos_token }}
{%- if tools %}{{ '[TOOLS]' ~ (tools | tojson) }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{%- if message.tool_call_id | length != 9 %}{{ raise_exception('Ids have nine characters.') }}{% endif %}
{{- '<|user|>' ~ message.tool_call_id ~ ' ' ~ message.content ~ eos_token }}
{%- elif message.tool_calls %}
{{- '<|assistant|>' }}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('Ids have nine characters.') }}{% endif %}
{{- '[CALL]' ~ call.function.name ~ (call.function.arguments | tojson) ~ call.id }}
{%- endfor %}{{ eos_token }}
{%- else %}{{ '<|' ~ message.role ~ '|>' ~ message.content ~ eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

# Any role, and nothing of tools.
PLAIN = """\
{{- bos_token }}
{%- for message in messages %}{{ '<|' ~ message.role ~ '|>' ~ message.content ~ eos_token }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

WITH_TOOLS = {"hermes": HERMES, "xml": XML, "deepseek": DEEPSEEK, "mistral": MISTRAL}
