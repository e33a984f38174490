"""Judges configurations by the JSON Schema, for tests/system/schema.rs.

Reads {"schema": …, "instances": […]} and answers with a list of complaints for each instance.
"""
import json
import sys

from jsonschema import Draft202012Validator

question = json.load(sys.stdin)
Draft202012Validator.check_schema(question["schema"])
validator = Draft202012Validator(question["schema"])
complaints = lambda instance: [f"{error.json_path}: {error.message}" for error in validator.iter_errors(instance)]
json.dump([complaints(instance) for instance in question["instances"]], sys.stdout)
