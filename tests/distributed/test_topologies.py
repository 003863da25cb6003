"""Programs compiled for TPUs that are not there: memory of a chip, and what chips send each other.

Without the TPU library there is nothing to compile with. The programs of whole pods take some
minutes and are compiled where ENTROPAX_TEST_PODS is set.
"""

import os

import pytest
from distributed.collectives import Collective, collectives
from distributed.topologies import MEMORY, compiled, markdown, missing

reason = missing()
needs_library = pytest.mark.skipif(reason is not None, reason=str(reason))
needs_time = pytest.mark.skipif(
    "ENTROPAX_TEST_PODS" not in os.environ, reason="set ENTROPAX_TEST_PODS to compile for pods"
)
IMAGE_BYTES = 4 * 32 * 32 * 3

PROGRAM = """
HloModule jit_step, entry_computation_layout={(f32[8,16]{1,0})->f32[16]{0}}

%add.1 (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

ENTRY %main (p: f32[8,16]) -> f32[16] {
  %p = f32[8,16]{1,0:T(8,128)} parameter(0), sharding={devices=[8,1]<=[8]}
  %psum.7 = f32[16]{0:T(128)S(1)} all-reduce(%fusion.3), channel_id=1, to_apply=%add.1
  %all-reduce.2 = (s32[8]{0:T(128)}, pred[]{:T(512)}) all-reduce(%a, %b), to_apply=%add.1
  %g = (bf16[8,32]{1,0}, bf16[64,32]{1,0:T(8,128)(2,1)}) all-gather-start(%c), dimensions={0}
  %all-gather-done.1 = bf16[64,32]{1,0} all-gather-done(%g)
  %h = ((f32[2]{0}, f32[3]{0}), (f32[4]{0}, f32[6]{0}), u32[], u32[]) all-gather-start(%d, %e)
  %s = f32[3,5]{1,0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
  %select_fusion = bf16[32]{0} fusion(%all-gather-done.1, %psum.7), calls=%fused_computation.197
  %t = f8e4m3fn[10]{0} all-to-all(%p), metadata={op_name="jit(step)/all-reduce(x)"}
  ROOT %r = f32[16]{0} reduce-scatter(%psum.7), dimensions={0}
}
"""


def test_collectives_of_a_program():
    assert collectives(PROGRAM) == [
        Collective("all-reduce", 64),
        Collective("all-reduce", 33),
        Collective("all-gather", 4096),
        Collective("all-gather", 40),
        Collective("collective-permute", 60),
        Collective("all-to-all", 10),
        Collective("reduce-scatter", 64),
    ]


def test_a_program_without_collectives():
    assert collectives("%x = f32[3] add(%all-reduce.1, %y)\n") == []


def test_table():
    row = {"program": "small-adaptation", "topology": "v5e:2x4", "seconds": 9.6}
    row |= {"bytes": 3 * 2**30, "argument_bytes": 2**29}
    row |= {"collectives": {"all-reduce": 45}, "collective_bytes": {"all-reduce": 15_000}}
    last = markdown([row, {**row, "collectives": {}}]).splitlines()[-2:]
    assert last[0].endswith("| v5e:2x4 | 10 | 3.00 | 0.50 | 45 all-reduce (0.015) |")
    assert last[1].endswith("| none |")


def check_memory(row):
    """What a program takes fits on its chip, with a tenth to spare."""
    chip = row["topology"].split(":")[0]
    assert row["bytes"] < 0.9 * MEMORY[chip] * 2**30, row


@pytest.fixture(scope="module")
def on_a_host():
    programs = ["small-adaptation", "small-diffusion-entropy", "small-ntk", "small-ntk-entropy"]
    return compiled(programs, "v5e:2x4", timeout=900)


@needs_library
def test_adaptation_sends_statistics_and_one_image(on_a_host):
    """Of 15 normalisation layers three sums each; the rest of the step has a few numbers more.

    No images are gathered: what is sent of them is one, to fill up an incomplete batch with.
    """
    row = on_a_host["small-adaptation"]
    check_memory(row)
    assert row["collectives"].keys() == {"all-reduce"}
    assert row["collectives"]["all-reduce"] <= 3 * 15 + 5
    assert row["collective_bytes"]["all-reduce"] < IMAGE_BYTES + 2**14
    assert row["bytes"] < 2 * row["argument_bytes"]


@needs_library
def test_diffusion_entropy_never_has_the_kernel(on_a_host):
    row = on_a_host["small-diffusion-entropy"]
    check_memory(row)
    kernel = 4 * 16_384**2
    assert row["bytes"] < kernel / 32
    assert max(row["collective_bytes"].values()) < kernel / 16


@needs_library
def test_tangent_kernel_is_never_gathered(on_a_host):
    """Features of 256 images pass by, 191,716 numbers each, and blocks of the matrix go back."""
    row = on_a_host["small-ntk"]
    check_memory(row)
    features, rows = 4 * 256 * 191_716, 4 * 256 * 2048
    assert row["collectives"].keys() == {"collective-permute"}
    assert features < row["collective_bytes"]["collective-permute"] <= features + rows
    assert row["bytes"] < 4 * features + 2 * rows


@needs_library
def test_products_with_the_tangent_kernel_send_parameters(on_a_host):
    """A sum of the size of the parameters for each of 32 vectors; no images, and no kernel."""
    row = on_a_host["small-ntk-entropy"]
    check_memory(row)
    basis = 4 * 20 * 32 * 2048
    assert row["bytes"] < 2**30  # of 128 images along 32 directions, what the layers give
    assert row["collective_bytes"]["all-reduce"] < 1.1 * 4 * 32 * 430_880
    assert row["collective_bytes"].get("all-gather", 0) < basis


@needs_library
def test_adaptation_on_another_generation():
    row = compiled(["small-adaptation"], "v5p:2x2x1", timeout=600)["small-adaptation"]
    check_memory(row)
    assert row["collectives"].keys() == {"all-reduce"}


@needs_library
@needs_time
@pytest.mark.parametrize("topology", ["v5e:16x16", "v5p:4x8x8"])
def test_resnet50_on_a_pod(topology):
    row = compiled(["resnet50-adaptation"], topology, timeout=3600)["resnet50-adaptation"]
    check_memory(row)
    assert row["bytes"] < 2**29
    assert row["collectives"].keys() == {"all-reduce"}
    assert row["collectives"]["all-reduce"] <= 3 * 53
    assert row["collective_bytes"]["all-reduce"] < 2**20


@needs_library
@needs_time
@pytest.mark.parametrize(
    ("program", "gibibytes"), [("ntk", 1.0), ("ntk-entropy", 1.2), ("diffusion-entropy", 9.0)]
)
def test_kernels_on_a_pod(program, gibibytes):
    row = compiled([program], "v5e:16x16", timeout=3600)[program]
    assert row["bytes"] < gibibytes * 2**30
    # Of the matrix of 60,160 images, each chip would have 13.5 GiB.
    assert max(row["collective_bytes"].values()) < 4e9
