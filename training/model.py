"""The model of the first step, from the options."""

from modeling_dytox import DyToxConfig, DyToxForImageClassification
from training.arguments import Arguments
from training.scenario import Step


def make_model(arguments: Arguments, step: Step) -> DyToxForImageClassification:
    """A new model that knows the classes of the first step."""
    sizes, method = arguments.model, arguments.method
    config = DyToxConfig(
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_task_attention_layers=sizes.num_task_attention_layers,
        num_attention_heads=sizes.num_attention_heads,
        intermediate_size=sizes.intermediate_size or 4 * sizes.hidden_size,
        drop_path_rate=sizes.drop_path_rate,
        encoder_attention=sizes.encoder_attention,
        class_ranges=[list(step.class_range)],
        token_expansion=method.token_expansion,
        independent_classifiers=method.independent_classifiers,
        id2label=dict(enumerate(step.class_names)),
        label2id={name: label for label, name in enumerate(step.class_names)},
    )
    model = DyToxForImageClassification(config)
    model.set_attn_implementation(sizes.attn_implementation)
    return model
