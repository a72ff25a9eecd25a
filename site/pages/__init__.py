"""What `make site` builds from: the notebooks, the ledger, the code and the documents, written as pages for Sphinx.

    python -m pages [FOLDER]    the whole site (build/site), with site/ and the repository's root on the path

Begin with `build`. Nothing is executed: a page shows what is committed.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
